"""What compression does to groups of items: drops, intervals, tests; a verdict.

Source for the question (is post-training quantisation reliable for the *worst* group?): arXiv:2303.13003. Everything else is
ours. A score is 1 or 0 for a right or a wrong answer, or a log-likelihood; a drop is the mean of before minus after over the
same items, so all statistics are paired. The group with the least score afterwards and the group that lost most are different
questions and often different groups. The least of many small groups is low by chance: groups below a size are listed and never
the worst, intervals of groups are widened for their number (Bonferroni), and the report tells how large the largest drop would
be if groups made no difference.

Shapes: n = items, g = groups, r = resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from ...core.errors import SpecError
from ...core.options import Options
from ...core.seeds import numpy_stream

Verdict = Literal["PASS", "WARN", "FAIL"]
VERDICTS: tuple[Verdict, ...] = ("PASS", "WARN", "FAIL")
Share = Annotated[float, Ge(0), Le(1)]
Interval = tuple[float, float]


class Thresholds(Options):
    """How much may be lost, and what counts as a group."""

    average_drop: Share = 0.02
    """Of all items."""
    worst_group_drop: Share = 0.05
    """Of the group of each grouping that loses most."""
    flip_rate: Share = 0.1
    """Share of items whose prediction changes, in either direction."""
    min_group: Annotated[int, Ge(1)] = 50
    """Items that a group needs to be the worst one."""
    cvar: Annotated[float, Gt(0), Le(1)] = 0.25
    """Share of groups, the worst ones, whose mean drop is reported."""
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    """Of intervals; those of groups are widened for their number."""
    resamples: Annotated[int, Ge(100)] = 2000
    """Of bootstraps."""


@dataclass(frozen=True)
class Items:
    """The same items before and after.

    Attributes
    ----------
    before_n, after_n : ndarray of float64
        Scores.
    predicted_before_n, predicted_after_n : ndarray
        Answers; only whether they are equal counts.
    groupings : mapping of str to ndarray
        Each item's group, by name of the grouping.
    """

    before_n: np.ndarray
    after_n: np.ndarray
    predicted_before_n: np.ndarray
    predicted_after_n: np.ndarray
    groupings: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        count = len(self.before_n)
        arrays = {"after_n": self.after_n, "predicted_before_n": self.predicted_before_n}
        arrays |= {"predicted_after_n": self.predicted_after_n, **self.groupings}
        if not count:
            raise SpecError("items: there are none to judge")
        for name, array in arrays.items():
            if len(array) != count:
                raise SpecError(f"{name}: has {len(array)} items, and there are {count}; each item needs one")
        if not (np.isfinite(self.before_n).all() and np.isfinite(self.after_n).all()):
            raise SpecError("items: a score is not finite")

    @property
    def binary(self) -> bool:
        """Scores are right or wrong."""
        return bool(np.isin(self.before_n, (0, 1)).all() and np.isin(self.after_n, (0, 1)).all())

    def where(self, chosen_n: np.ndarray) -> Items:
        """Return some of the items."""
        before, after = self.predicted_before_n[chosen_n], self.predicted_after_n[chosen_n]
        groupings = {name: of_n[chosen_n] for name, of_n in self.groupings.items()}
        return Items(self.before_n[chosen_n], self.after_n[chosen_n], before, after, groupings)


@dataclass(frozen=True)
class Group:
    """One group of one grouping.

    Attributes
    ----------
    before, after, drop : float
        Mean scores, and before minus after.
    interval : tuple of float
        Of the drop.
    mcnemar : float or None
        Exact two-sided p of the drop being chance; None where scores are not right or wrong.
    lost, won : int
        Items whose score fell, and rose.
    flips : int
        Items whose prediction changed.
    eligible : bool
        Large enough to be the worst.
    """

    grouping: str
    name: str
    items: int
    before: float
    after: float
    drop: float
    interval: Interval
    mcnemar: float | None
    lost: int
    won: int
    flips: int
    eligible: bool


@dataclass(frozen=True)
class Grouping:
    """One way to group the items.

    Attributes
    ----------
    groups : tuple of Group
        The one that lost most first; those too small to count last.
    worst : Group
        The one that lost most.
    lowest : Group
        The one with the least score afterwards.
    cvar_drop : float
        Mean drop of the worst share of groups.
    chance_drop : float
        Mean of the largest drop if groups made no difference.
    chance_p : float
        How often that would be at least the largest drop there is.
    """

    name: str
    groups: tuple[Group, ...]
    worst: Group
    lowest: Group
    cvar_drop: float
    chance_drop: float
    chance_p: float


@dataclass(frozen=True)
class Judgement:
    """A verdict on one figure, and what decided it: PASS if the interval is within the limit, FAIL if beyond, else WARN."""

    figure: str
    value: float
    interval: Interval
    limit: float
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """Before and after, in all and by group."""

    items: int
    before: float
    after: float
    average_drop: float
    average_interval: Interval
    mcnemar: float | None
    flip_rate: float
    right_to_wrong: float
    wrong_to_right: float
    groupings: tuple[Grouping, ...]
    judgements: tuple[Judgement, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst_verdict([one.verdict for one in self.judgements])

    @property
    def worst(self) -> Group:
        """The group that lost most, of all groupings."""
        return max((one.worst for one in self.groupings), key=lambda group: group.drop)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "verdict": self.verdict}


def worst_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Return FAIL before WARN before PASS."""
    return VERDICTS[max(map(VERDICTS.index, verdicts))]


def compare(items: Items, thresholds: Thresholds, seed: int = 0) -> Comparison:
    """Judge what changed.

    Parameters
    ----------
    items : Items
    thresholds : Thresholds
    seed : int
        Of the bootstraps.

    Raises
    ------
    SpecError
        If a grouping has no group that is large enough.
    """
    drop_n = items.before_n - items.after_n
    flipped_n = items.predicted_before_n != items.predicted_after_n
    alpha = 1 - thresholds.confidence
    average = interval(drop_n, alpha, thresholds.resamples, seed, "average")
    flips = interval(flipped_n.astype(float), alpha, thresholds.resamples, seed, "flips")
    groupings = tuple(_grouping(name, items, thresholds, seed) for name in items.groupings)
    judgements = [
        judge("average_drop", float(drop_n.mean()), average, thresholds.average_drop),
        judge("flip_rate", float(flipped_n.mean()), flips, thresholds.flip_rate),
    ]
    for one in groupings:
        eligible = [group for group in one.groups if group.eligible]
        decided = [judge(f"worst {one.name} drop", g.drop, g.interval, thresholds.worst_group_drop) for g in eligible]
        judgements.append(max(decided, key=lambda j: (VERDICTS.index(j.verdict), j.value)))
    return Comparison(
        len(drop_n),
        float(items.before_n.mean()),
        float(items.after_n.mean()),
        float(drop_n.mean()),
        average,
        mcnemar(drop_n) if items.binary else None,
        float(flipped_n.mean()),
        float((drop_n > 0).mean()),
        float((drop_n < 0).mean()),
        groupings,
        tuple(judgements),
    )


def judge(figure: str, value: float, about: Interval, limit: float) -> Judgement:
    """Compare a figure's interval with its limit."""
    verdict: Verdict = "PASS" if about[1] <= limit else "FAIL" if about[0] > limit else "WARN"
    return Judgement(figure, value, about, limit, verdict)


def _grouping(name: str, items: Items, thresholds: Thresholds, seed: int) -> Grouping:
    of_n = items.groupings[name]
    names, index_n, counts_g = np.unique(of_n, return_inverse=True, return_counts=True)
    eligible_g = counts_g >= thresholds.min_group
    if not eligible_g.any():
        raise SpecError(
            f"grouping {name!r}: its largest group has {counts_g.max()} items; min_group = {thresholds.min_group} "
            f"leaves none that can be judged; choose at most {counts_g.max()}"
        )
    alpha = (1 - thresholds.confidence) / int(eligible_g.sum())
    groups = []
    for g, group in enumerate(names.tolist()):
        chosen_n = index_n == g
        before_n, after_n = items.before_n[chosen_n], items.after_n[chosen_n]
        drop_n = before_n - after_n
        flips = int((items.predicted_before_n[chosen_n] != items.predicted_after_n[chosen_n]).sum())
        about = interval(drop_n, alpha, thresholds.resamples, seed, name, str(group))
        chance = mcnemar(drop_n) if items.binary else None
        means = float(before_n.mean()), float(after_n.mean()), float(drop_n.mean())
        lost, won = int((drop_n > 0).sum()), int((drop_n < 0).sum())
        groups.append(Group(name, str(group), len(drop_n), *means, about, chance, lost, won, flips, bool(eligible_g[g])))
    groups.sort(key=lambda group: (not group.eligible, -group.drop, group.name))
    counted = [group for group in groups if group.eligible]
    tail = counted[: math.ceil(thresholds.cvar * len(counted))]
    largest_r = _largest_by_chance(
        items.before_n - items.after_n, [group.items for group in counted], thresholds.resamples, seed, name
    )
    return Grouping(
        name,
        tuple(groups),
        counted[0],
        min(counted, key=lambda group: (group.after, group.name)),
        sum(group.drop for group in tail) / len(tail),
        float(largest_r.mean()),
        float((largest_r >= counted[0].drop - 1e-12).mean()),
    )


def interval(drop_n: np.ndarray, alpha: float, resamples: int, seed: int, *path: str) -> Interval:
    """Return the percentile bootstrap interval of a mean, by drawing how often each distinct value occurs."""
    means_r = _means(drop_n, len(drop_n), resamples, numpy_stream(seed, "reliability", *path))
    low, high = np.quantile(means_r, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def _means(drop_n: np.ndarray, count: int, resamples: int, stream: np.random.Generator) -> np.ndarray:
    values, counts = np.unique(drop_n, return_counts=True)
    return stream.multinomial(count, counts / counts.sum(), size=resamples) @ values / count


def _largest_by_chance(drop_n: np.ndarray, sizes: Sequence[int], resamples: int, seed: int, name: str) -> np.ndarray:
    """Draw groups of those sizes from all items, and return the largest drop among them, shape (r,)."""
    stream = numpy_stream(seed, "reliability", name, "chance")
    return np.max([_means(drop_n, size, resamples, stream) for size in sizes], axis=0)


def mcnemar(drop_n: np.ndarray) -> float:
    """Return the exact two-sided p of McNemar's test: that as many items would be lost as won."""
    lost, won = int((drop_n > 0).sum()), int((drop_n < 0).sum())
    tail = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2 ** (lost + won))


def groups_by_id(named: Mapping[str, str], ids: Sequence[str], name: str) -> np.ndarray:
    """Return each item's group, from a table of ids.

    Raises
    ------
    SpecError
        If an item has no group, or an id belongs to no item.
    """
    if missing := [one for one in ids if one not in named]:
        raise SpecError(f"grouping {name!r}: item {missing[0]!r} has no group ({len(missing)} such items)")
    if unknown := sorted(named.keys() - set(ids)):
        raise SpecError(f"grouping {name!r}: there is no item {unknown[0]!r} ({len(unknown)} such ids)")
    if len(set(ids)) != len(ids):
        raise SpecError(f"grouping {name!r}: two items have the same id")
    return np.array([named[one] for one in ids])

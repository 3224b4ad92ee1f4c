"""The reliability report: a grid of quantisations of one model, each judged on the same test items.

What is judged is what would travel: wherever the recipe has a form as an upload, the model is encoded, and the model that a
receiver builds from the bytes answers. The federated question, which no paper answers: what each client loses that calibrates
on its own skewed data, against calibration on data of all clients.

Shapes: N = test items, C, H, W = channels, height, width, K = classes.
"""

from __future__ import annotations

import copy
import hashlib
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import SpecError
from ...core.options import Options
from ...core.seeds import torch_stream
from .. import parse
from ..chain import UploadOptions
from ..codec import Calibration, Context
from ..rptq import Recipe, blocks, quantise
from ..rptq.blocks import outside
from ..rptq.calibrate import watching
from ..rptq.codec import deployed
from ..rptq.ranges import extremes
from ..rptq.sites import ends, observed
from ..wire import Base, layout
from .draws import Draw, Pool, disturbed, draw
from .groups import Comparison, Items, Thresholds, Verdict, compare, interval, mcnemar
from .trials import Trial, quantisation_key, quantisations, trials

AT_ONCE = 256
TEST_STRENGTH = 0.2
CULPRITS = 5


@dataclass(frozen=True)
class Subject:
    """A model and the data it is judged with.

    Attributes
    ----------
    module : Module
        Takes images, gives logits.
    train : Pool
        What calibration sets are drawn from.
    test : Pool
        The items.
    classes, clients : int
        How many there are, also of those without items.
    """

    module: nn.Module
    train: Pool
    test: Pool
    classes: int
    clients: int


@dataclass(frozen=True)
class Assessment:
    """The report as plain values, and the answers it was made from.

    Attributes
    ----------
    report : dict
    answers : dict of str to ndarray
        ``truth``, ``client``, ``float/<noise>`` and ``trial/<number>``, one entry an item; -1 where a trial did not ask.
    """

    report: dict[str, Any]
    answers: dict[str, np.ndarray]


@torch.inference_mode()
def logits(module: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Return a model's logits, (N, K)."""
    return torch.cat([module(x_BCHW) for x_BCHW in x_NCHW.split(AT_ONCE)])


def assess(
    subject: Subject,
    recipe: Options,
    how: Draw,
    thresholds: Thresholds,
    grid: Literal["quick", "full"] = "quick",
    seed: int = 0,
    groups: Mapping[str, np.ndarray] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Assessment:
    """Quantise a model in many ways and judge each.

    Parameters
    ----------
    subject : Subject
    recipe : Recipe or UploadOptions
        The base case.
    how : Draw
        The base case's calibration set.
    thresholds : Thresholds
    grid : {"quick", "full"}
    seed : int
    groups : mapping of str to ndarray, optional
        Further groupings of the test items.
    tell : callable
        Is told of each trial.

    Raises
    ------
    SpecError
        If no grouping has a group that is large enough, a further grouping has none, or a recipe is to be used on a model
        without blocks that it knows.
    CalibrationError
        If the base case cannot be drawn.
    """
    return _Assessor(subject, recipe, how, thresholds, grid, seed, dict(groups or {}), tell).run()


class _Assessor:
    def __init__(
        self,
        subject: Subject,
        recipe: Options,
        how: Draw,
        thresholds: Thresholds,
        grid: Literal["quick", "full"],
        seed: int,
        groups: dict[str, np.ndarray],
        tell: Callable[[str], None],
    ) -> None:
        self.subject, self.recipe, self.how = subject, recipe, how
        self.thresholds, self.grid, self.seed, self.tell = thresholds, grid, seed, tell
        subject.module.eval()
        self.blocks = blocks(subject.module) if isinstance(recipe, Recipe) else []
        self.truth, self.client = subject.test.y_N.numpy(), subject.test.clients_N.numpy()
        self.train = replace(subject.train, loss_N=self._losses)
        pairs = [f"class {label} of client {client}" for label, client in zip(self.truth, self.client, strict=True)]
        own = {"class": self.truth.astype(str), "client": self.client.astype(str), "class x client": np.array(pairs)}
        self.unjudged = {name: most for name, of_n in own.items() if (most := _largest(of_n)) < thresholds.min_group}
        self.groupings = {name: of_n for name, of_n in own.items() if name not in self.unjudged} | groups
        if not self.groupings:
            raise SpecError(
                f"min_group = {thresholds.min_group}: no class and no client has so many test items; "
                f"choose at most {max(self.unjudged.values())}"
            )
        self.answers: dict[str, np.ndarray] = {"truth": self.truth, "client": self.client}

    def run(self) -> Assessment:
        """Run every trial and judge what came out."""
        started = time.perf_counter()
        calibrated = self.recipe.needs_calibration if isinstance(self.recipe, Recipe) else _codec(self.recipe).needs_calibration
        classes = self.train.y_N.unique().tolist()
        made = trials(self.recipe, calibrated, self.how, self.grid, classes, self._skewed())
        for noise in dict.fromkeys(trial.test_noise for trial in made):
            self.answers[f"float/{noise}"] = logits(self.subject.module, self._noisy(noise)).argmax(1).numpy()
        sizes: dict[int, int | None] = {}
        for key in dict.fromkeys(map(quantisation_key, made)):
            numbers = [n for n, trial in enumerate(made) if quantisation_key(trial) == key]
            self.tell(", ".join(f"{made[n].factor}: {made[n].level}" for n in numbers))
            batch = draw(self.train, made[numbers[0]].draw, self.seed)
            model, upload_bytes = quantised(self.subject.module, [batch], made[numbers[0]].recipe, self.seed)
            for n in numbers:
                self.answers[f"trial/{n}"], sizes[n] = self._ask(model, made[n]), upload_bytes
        comparisons = [compare(self._items(n, trial), self.thresholds, self.seed) for n, trial in enumerate(made)]
        report = self._report(made, comparisons, sizes)
        report["seconds"] = round(time.perf_counter() - started, 3)
        return Assessment(report, self.answers)

    def _losses(self) -> Tensor:
        return F.cross_entropy(logits(self.subject.module, self.train.x_NCHW), self.train.y_N, reduction="none")

    def _skewed(self) -> list[int]:
        """Return the clients that have training and test items, those with the most uneven classes first."""
        share = {}
        for client in np.unique(self.client).tolist():
            labels = self.train.y_N[self.train.clients_N == client].numpy()
            if len(labels):
                share[client] = np.bincount(labels).max() / len(labels)
        return sorted(share, key=lambda client: (-share[client], client))

    def _noisy(self, noise: Any) -> Tensor:
        stream = torch_stream(self.seed, "reliability", "test", noise)
        return disturbed(self.subject.test.x_NCHW, noise, TEST_STRENGTH, stream)

    def _ask(self, model: nn.Module, trial: Trial) -> np.ndarray:
        x_NCHW, answers_N = self._noisy(trial.test_noise), np.full(len(self.truth), -1)
        asked_N = self.client == trial.draw.client if trial.own else np.ones(len(self.truth), bool)
        answers_N[asked_N] = logits(model, x_NCHW[torch.from_numpy(asked_N)]).argmax(1).numpy()
        return answers_N

    def _items(self, number: int, trial: Trial) -> Items:
        before_N, after_N = self.answers[f"float/{trial.test_noise}"], self.answers[f"trial/{number}"]
        right_before_N, right_after_N = ((answers_N == self.truth).astype(float) for answers_N in (before_N, after_N))
        if trial.own:  # one client: no grouping of it means anything, and it may be small
            return Items(right_before_N, right_after_N, before_N, after_N, {}).where(after_N >= 0)
        return Items(right_before_N, right_after_N, before_N, after_N, self.groupings)

    def _report(
        self, made: Sequence[Trial], comparisons: Sequence[Comparison], sizes: Mapping[int, int | None]
    ) -> dict[str, Any]:
        base, thresholds, module = comparisons[0], self.thresholds, self.subject.module
        missing = {
            "class": sorted(set(range(self.subject.classes)) - set(self.truth.tolist())),
            "client": sorted(set(range(self.subject.clients)) - set(self.client.tolist())),
        }
        factors = [
            _line(n, trial, one, sizes[n], self.recipe) for n, (trial, one) in enumerate(zip(made, comparisons, strict=True))
        ]
        verdict: Verdict = "WARN" if base.verdict == "PASS" and any(missing.values()) else base.verdict
        return {
            "schema": 1,
            "codec": "rptq" if isinstance(self.recipe, Recipe) else " > ".join(_codec(self.recipe).names),
            "grid": self.grid,
            "verdict": verdict,
            "judgements": [asdict(one) for one in base.judgements],
            "items": base.items,
            "accuracy_before": base.before,
            "accuracy_after": base.after,
            "average_drop": base.average_drop,
            "average_interval": base.average_interval,
            "mcnemar": base.mcnemar,
            "flip_rate": base.flip_rate,
            "right_to_wrong": base.right_to_wrong,
            "wrong_to_right": base.wrong_to_right,
            "worst_group": asdict(base.worst),
            "groups": [asdict(group) for one in base.groupings for group in one.groups],
            "groupings": [_grouping_line(one) for one in base.groupings],
            "too_small": self.unjudged,
            "missing_groups": missing,
            "bytes_dense": sum(x.numel() * x.element_size() for x in module.state_dict().values()),
            "bytes_upload": sizes[0],
            "quantisations": quantisations(made),
            "factors": factors,
            "worst_of_calibrations": _worst_of_calibrations(factors),
            "own_calibration": self._own(made),
            "corruption": self._corruption(made),
            "sensitivity": self._sensitivity(),
            "outside_blocks": outside(module, self.blocks) if isinstance(self.recipe, Recipe) else [],
            "recommendation": _recommendation(factors, verdict),
            "provenance": self._provenance(thresholds),
        }

    def _own(self, made: Sequence[Trial]) -> dict[str, Any] | None:
        """Compare, by client, calibration on its own data with the base case's, on the same items."""
        own = [(n, trial) for n, trial in enumerate(made) if trial.own]
        if not own:
            return None
        clients: list[dict[str, Any]] = []
        for n, trial in own:
            asked_N = self.client == trial.draw.client
            before, pooled, mine = (
                (self.answers[name][asked_N] == self.truth[asked_N]).astype(float)
                for name in ("float/none", "trial/0", f"trial/{n}")
            )
            alpha = (1 - self.thresholds.confidence) / len(own)
            lost = pooled - mine
            about = interval(lost, alpha, self.thresholds.resamples, self.seed, "own", str(trial.draw.client))
            clients.append(
                {
                    "client": trial.draw.client,
                    "items": int(asked_N.sum()),
                    "before": float(before.mean()),
                    "pooled": float(pooled.mean()),
                    "own": float(mine.mean()),
                    "lost_by_own": float(lost.mean()),
                    "interval": about,
                    "mcnemar": mcnemar(lost),
                }
            )
        worst = {key: min(clients, key=lambda one: one[key])["client"] for key in ("before", "pooled", "own")}
        accuracy = {f"{key}_accuracy": min(one[key] for one in clients) for key in ("before", "pooled", "own")}
        lost_most = max(clients, key=lambda one: one["lost_by_own"])
        return {"clients": clients, "worst": {**worst, **accuracy}, "lost_most": lost_most["client"]}

    def _corruption(self, made: Sequence[Trial]) -> dict[str, Any]:
        """Judge the base case's quantised model on clean and on noisy items, which are groups."""
        parts = [
            (trial.test_noise, self._items(n, trial)) for n, trial in enumerate(made) if n == 0 or trial.test_noise != "none"
        ]
        noise_N = np.repeat([noise for noise, _ in parts], len(self.truth))
        joined = Items(
            np.concatenate([items.before_n for _, items in parts]),
            np.concatenate([items.after_n for _, items in parts]),
            np.concatenate([items.predicted_before_n for _, items in parts]),
            np.concatenate([items.predicted_after_n for _, items in parts]),
            {"corruption": noise_N},
        )
        (grouping,) = compare(joined, self.thresholds, self.seed).groupings
        return {**_grouping_line(grouping), "groups": [asdict(group) for group in grouping.groups]}

    def _sensitivity(self) -> list[dict[str, Any]]:
        """Quantise one block at a time; the ones that disturb the logits most come first."""
        if not isinstance(self.recipe, Recipe):
            return []
        batch = draw(self.train, self.how, self.seed)
        exact = logits(self.subject.module, batch)
        lines = []
        for block in self.blocks:
            one = quantise(Calibration(self.subject.module, [batch]), self.recipe, only=[block.name])
            noise = float((logits(one.module, batch) - exact).square().sum())
            with watching(self.subject.module, [where[0] for where in ends(block).values()]) as seen:
                logits(self.subject.module, batch)
            at = observed(block, {end: torch.cat(x) for end, x in seen.items()})
            ratio = {kind: _range_ratio(x_tc) for kind, x_tc in at.items()}
            site = max(ratio, key=lambda kind: ratio[kind])
            decibels = 10 * float(np.log10(float(exact.square().sum()) / noise)) if noise else None
            lines.append({"block": block.name, "sqnr_db": decibels, "widest_site": site, "range_ratio": ratio[site]})
        lines.sort(key=lambda line: float("inf") if line["sqnr_db"] is None else line["sqnr_db"])
        return lines[:CULPRITS]

    def _provenance(self, thresholds: Thresholds) -> dict[str, Any]:
        batch = draw(self.train, self.how, self.seed)
        packages = ("fedcosim", "torch", "numpy", "scikit-learn")
        return {
            "seed": self.seed,
            "recipe": self.recipe.model_dump(mode="json"),
            "draw": self.how.model_dump(mode="json"),
            "thresholds": thresholds.model_dump(),
            "model": Base(self.subject.module.state_dict()).fingerprint,
            "calibration": hashlib.sha256(batch.contiguous().numpy().tobytes()).hexdigest(),
            "calibration_samples": len(batch),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        }


def quantised(module: nn.Module, batches: Sequence[Any], recipe: Options, seed: int) -> tuple[nn.Module, int | None]:
    """Return the quantised model that a receiver would have, and the bytes of the upload; None where it has no such form."""
    weights = module.state_dict()
    if isinstance(recipe, Recipe) and not recipe.travels:
        return quantise(Calibration(module, batches), recipe).module, None
    options = parse({"codec": "rptq", "target": "weights", **recipe.model_dump()}) if isinstance(recipe, Recipe) else recipe
    codec = _codec(options)
    buffers = frozenset(name for name, _ in module.named_buffers())
    context = Context(generator=torch_stream(seed, "encode"), calibration=Calibration(module, batches), buffers=buffers)
    blob = codec.encode(weights, context).blob
    if isinstance(recipe, Recipe) and recipe.setting.activations < 16:
        return deployed(codec, blob, module), len(blob)
    received = copy.deepcopy(module).eval()
    received.load_state_dict(codec.decode(blob, layout(weights)))
    return received, len(blob)


def _codec(options: Options) -> Any:
    assert isinstance(options, UploadOptions)
    return options.build()


def _largest(of_n: np.ndarray) -> int:
    return int(np.unique(of_n, return_counts=True)[1].max())


def _range_ratio(x_tc: Tensor) -> float:
    """Return the widest channel's range over the median one's."""
    spread_c = extremes(x_tc) @ torch.tensor([1.0, -1.0])
    return float(spread_c.max() / spread_c.median().clamp(min=1e-12))


def _grouping_line(one: Any) -> dict[str, Any]:
    keys = ("name", "cvar_drop", "chance_drop", "chance_p")
    return {**{key: getattr(one, key) for key in keys}, "worst": one.worst.name, "lowest": one.lowest.name}


def _line(number: int, trial: Trial, one: Comparison, upload_bytes: int | None, base: Options) -> dict[str, Any]:
    recipe = trial.recipe
    worst = one.worst if one.groupings else None
    return {
        "trial": number,
        "factor": trial.factor,
        "level": trial.level,
        "weight_bits": recipe.setting.weights if isinstance(recipe, Recipe) else None,
        "activation_bits": recipe.setting.activations if isinstance(recipe, Recipe) else None,
        "bytes_upload": upload_bytes,
        "items": one.items,
        "accuracy": one.after,
        "average_drop": one.average_drop,
        "flip_rate": one.flip_rate,
        "worst_group": worst and f"{worst.grouping} {worst.name}",
        "worst_group_drop": worst and worst.drop,
        "worst_accuracy": min(g.lowest.after for g in one.groupings) if one.groupings else None,
        "verdict": one.verdict,
    }


DATA_FACTORS = (
    "base",
    "draw",
    "distribution",
    "one client for all",
    "calibration noise",
    "samples",
    "sampling",
    "augmentation",
)


def _worst_of_calibrations(factors: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return how the worst group's drop, and the least accuracy of a group, range over calibration sets for one recipe."""
    lines = [line for line in factors if line["factor"] in DATA_FACTORS]
    best, worst = (choose(lines, key=lambda line: line["worst_group_drop"]) for choose in (min, max))
    draws = [line["worst_group_drop"] for line in lines if line["factor"] in ("base", "draw")]
    return {
        "worst": f"{worst['factor']}: {worst['level']}",
        "worst_drop": worst["worst_group_drop"],
        "best": f"{best['factor']}: {best['level']}",
        "best_drop": best["worst_group_drop"],
        "spread": worst["worst_group_drop"] - best["worst_group_drop"],
        "std_over_draws": float(np.std(draws, ddof=1)) if len(draws) > 1 else None,
        "worst_accuracy": min(line["worst_accuracy"] for line in lines),
    }


def _recommendation(factors: Iterable[dict[str, Any]], verdict: Verdict) -> str:
    """Name the setting of bits with the smallest upload of those that pass."""
    tried = [line for line in factors if line["factor"] in ("base", "bits")]
    verdicts = [verdict, *(line["verdict"] for line in tried[1:])]  # the base case's may be worse for groups without items
    passing = [line for line, one in zip(tried, verdicts, strict=True) if one == "PASS" and line["bytes_upload"] is not None]
    if passing:
        best = min(passing, key=lambda line: (line["bytes_upload"], line["activation_bits"] or 32))
        bits = f"W{best['weight_bits']}A{best['activation_bits']}" if best["weight_bits"] else "the codec as it is"
        return f"{bits}, {best['bytes_upload']} bytes: the smallest upload tried that stays within the limits"
    if "WARN" in verdicts:
        return "undecided: no setting of bits that was tried passes, not all fail; more test items may tell"
    return "do not deploy: every setting of bits that was tried exceeds the limits"

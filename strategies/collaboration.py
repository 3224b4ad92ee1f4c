"""How client types learn from each other on the server: FedCola's collaborative aggregation and compensation.

Source: Sun et al., arXiv:2404.12467, section 3.3. With D_j the mean update of this round's clients of type j, weighted by their
sample counts n_j, type i moves by

    shared layers of modality k     sum over types j that hold k of  n_j / n(k) D_j,    n(k) = sum of these n_j
    all other layers                a D_i,   a = n_i / n(k) with compensation, 1 without

Self-attention is what the paper shares. With two modalities this is the paper's I, T and M; it is the same for any number of
modalities and types. Ours: a layer that belongs to no tower (the final norm) is compensated by the mean of a over the type's
modalities, a head likewise; a type without a valid reply has n = 0 and moves only by what others share with it.

The published code differs: it accumulates clients one by one in place, so that order matters and old weights keep some mass,
and finds partners by substrings, so that for image+text n(k) counts the clients of *both* modalities. `denominator = "release"`
gives the latter; the former is an error, and is not offered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..clients.data.silos import SiloType
from ..clients.models.towers import Kind, Part, part_of

Sharing = Literal["none", "attention", "mlp", "blocks", "towers"]
SHARED: dict[Sharing, frozenset[Kind]] = {
    "none": frozenset(),
    "attention": frozenset({"attention"}),
    "mlp": frozenset({"mlp"}),
    "blocks": frozenset({"attention", "mlp", "norm"}),
    "towers": frozenset({"attention", "mlp", "norm", "embedding"}),
}
"""Which layers of a tower all types that hold its modality move together."""
Compensation = Literal["none", "attention", "all"]
COMPENSATED: dict[Compensation, frozenset[Kind]] = {
    "none": frozenset(),
    "attention": frozenset({"attention"}),
    "all": frozenset({"attention", "mlp", "norm", "embedding", "head"}),
}
"""Which layers move by the type's own share only, where they are not shared."""
Denominator = Literal["modality", "release"]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Reply:
    """One client's update as it counts: its type, sample count and arrays, named as the model names them."""

    client: int
    type: str
    examples: float
    arrays: Arrays


def mean_updates(
    start: Mapping[str, Arrays], replies: Iterable[Reply]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, float]]:
    """Return every type's mean update D, in float64, and its sample count n; a type without replies has neither.

    The order of replies does not matter: they are summed by client.
    """
    totals: dict[str, dict[str, np.ndarray]] = {}
    counts: dict[str, float] = {}
    for reply in sorted(replies, key=lambda reply: reply.client):
        counts[reply.type] = counts.get(reply.type, 0.0) + reply.examples
        total = totals.setdefault(reply.type, {})
        for key, array in start[reply.type].items():
            moved = reply.examples * (reply.arrays[key].astype(np.float64) - array)
            total[key] = total[key] + moved if key in total else moved
    means = {name: {key: moved / counts[name] for key, moved in total.items()} for name, total in totals.items()}
    return means, counts


@dataclass(frozen=True)
class Collaboration:
    """Who shares what with whom.

    Parameters
    ----------
    types : mapping of str to SiloType
        By name.
    share : str
        A key of `SHARED`.
    compensation : str
        A key of `COMPENSATED`.
    denominator : str
        `modality`: n(k) counts the types that hold the modality (the paper). `release`: those that hold any modality in
        common with the type that moves (its published code).
    paired_weight : float
        Factor on the sample counts of types with several modalities, when types are weighted against each other.
    server_lr : float
        Factor on every step.
    """

    types: Mapping[str, SiloType]
    share: Sharing = "attention"
    compensation: Compensation = "all"
    denominator: Denominator = "modality"
    paired_weight: float = 1.0
    server_lr: float = 1.0

    def partners(self, part: Part) -> list[str]:
        """Return the types that move a layer together; none: the layer is not shared."""
        if part.modality is None or part.kind not in SHARED[self.share]:
            return []
        return [other for other, kind in self.types.items() if part.modality in kind.modalities]

    def share_of(self, name: str, other: str, modality: str, counts: Mapping[str, float]) -> float:
        """Return n_other / n(k) as it is for type `name`; 0 where nobody took part."""
        mine = self.types[name].modalities
        total = 0.0
        for each, kind in self.types.items():
            if modality in kind.modalities or (self.denominator == "release" and kind.modalities & mine):
                total += self._weight(each, counts)
        return self._weight(other, counts) / total if total else 0.0

    def _weight(self, name: str, counts: Mapping[str, float]) -> float:
        return counts.get(name, 0.0) * (self.paired_weight if len(self.types[name].views) > 1 else 1.0)

    def own_share(self, name: str, part: Part, counts: Mapping[str, float]) -> float:
        """Return the factor on a type's own update of a layer that is not shared."""
        if part.kind not in COMPENSATED[self.compensation]:
            return 1.0
        modalities = sorted(self.types[name].modalities) if part.modality is None else [part.modality]
        return sum(self.share_of(name, name, modality, counts) for modality in modalities) / len(modalities)

    def merged(self, start: Mapping[str, Arrays], replies: Iterable[Reply]) -> dict[str, dict[str, np.ndarray]]:
        """Return the new arrays of every type; what does not move is the same array.

        Parameters
        ----------
        start : mapping of str to mapping of str to ndarray
            Every type's arrays, by type and name.
        """
        means, counts = mean_updates(start, replies)
        return {
            name: {key: self._moved(name, key, array, means, counts) for key, array in arrays.items()}
            for name, arrays in start.items()
        }

    def _moved(
        self, name: str, key: str, array: np.ndarray, means: Mapping[str, Arrays], counts: Mapping[str, float]
    ) -> np.ndarray:
        part = part_of(key)
        if partners := self.partners(part):
            assert part.modality is not None
            movers = {other: self.share_of(name, other, part.modality, counts) for other in partners if other in means}
        else:
            movers = {name: self.own_share(name, part, counts)} if name in means else {}
        if not movers:
            return array
        step = sum(self.server_lr * share * means[other][key] for other, share in movers.items())
        return (array + step).astype(array.dtype)

"""Circuits as the data of a multimodal federation: the houses of a design chain are its client types.

Integrators hold RTL and netlist of the same functions and learn to match them; RTL and netlist houses hold one view and learn
to tell its classes. The corpus and what of it is tested on are the same for every seed of an experiment, so that seeds are
judged on the same functions; who holds what of the rest derives from the seed.

Shapes: N = circuits, T = tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from ....core.errors import DataError
from ....core.seeds import numpy_stream
from ..labelled import LabelMixing, silo
from ..multimodal import LEAST_GALLERY, Federation, MultimodalOptions, Samples, Silo
from ..silos import SiloType, Tokens, View
from . import splits, synthesis
from .circuits import Circuits
from .generate import CircuitsOptions, make
from .labels import Label, target
from .netlist import restructured
from .splits import House, SilosOptions, SplitOptions
from .tokens import of_netlist, tokens

CORPUS_SEED = 0
Labelled = Literal["rtl", "netlist", "truth", "layout"]
DETECTABILITY: dict[Labelled, Label] = {"rtl": "detectability", "netlist": "detectability"}


class HousesOptions(SilosOptions):
    """Who holds how many functions, and what is asked of them: `[data.silos]`."""

    labels: dict[Labelled, Label] = Field(default=DETECTABILITY)
    """What each kind of house with one view learns to tell; must be given for every one among `houses`."""
    bins: Annotated[int, Field(ge=0, le=16)] = 4
    """Classes of a number; 0: the number itself is to be told."""
    variants: Annotated[int, Field(ge=1, le=2)] = 1
    """Netlists of each function; the second is the first one restructured, where that changes it."""
    mixing: LabelMixing = "given"
    """`shuffled` is a control: training labels change places at random, so that there is nothing to learn."""
    pairing: LabelMixing = "given"
    """`shuffled` is a control: the netlists that integrators train on change places at random, so that nothing matches."""
    tested: Annotated[int, Field(ge=1)] = 100
    """Most functions that a house with one view is tested on."""
    gallery: Annotated[int, Field(ge=LEAST_GALLERY)] = 400
    """Functions among which each integrator retrieves, no other integrator's."""
    public: Annotated[int, Field(ge=0)] = 0
    """Functions whose pairs the server and all clients have, for strategies that need such; they are nobody's own."""

    @field_validator("bins")
    @classmethod
    def _one_bin_tells_nothing(cls, bins: int) -> int:
        if bins == 1:
            raise ValueError("one class tells nothing; choose 2 to 16, or 0 for the number itself")
        return bins

    @model_validator(mode="after")
    def _integrators_and_labels(self) -> HousesOptions:
        if "integrator" not in self.houses:
            raise ValueError("silos.houses: has no 'integrator'; somebody must hold pairs, for these data are about matching")
        for house in self.houses:
            if house != "integrator" and house not in self.labels:
                raise ValueError(f"silos.labels.{house}: missing; silos.houses has {self.houses[house]} of them")
        return self


class CircuitSiloOptions(MultimodalOptions):
    """Circuits in RTL houses, netlist houses and integrators (needs `pip install 'fedcosim[circuits]'`)."""

    source: Literal["circuits"] = "circuits"
    circuits: CircuitsOptions = CircuitsOptions()
    """Which circuits there are."""
    split: SplitOptions = SplitOptions()
    """Which of them are tested on."""
    silos: HousesOptions = HousesOptions()
    """Who holds them."""

    @property
    def clients(self) -> dict[str, int]:
        """How many clients of each type there are; a type is named by its views."""
        return {_type_name(house): count for house, count in self.silos.houses.items()}

    def files(self) -> list[Path]:
        """Return the library of cells, if one is named."""
        if self.circuits.liberty is None:
            return []
        synthesis.cells(self.circuits.liberty)
        return [Path(self.circuits.liberty)]

    def make(self, seed: int) -> Federation:
        """Make all silos.

        Raises
        ------
        DataError
            If a package is missing, or there are too few functions.
        """
        circuits = make(self.circuits, CORPUS_SEED)
        parts = splits.split(circuits, self.split, CORPUS_SEED)
        return _Maker(self, circuits, parts, seed).federation()


def _type_name(house: House) -> str:
    return "+".join(splits.VIEWS[house])


class _Maker:
    """Makes one federation."""

    def __init__(self, options: CircuitSiloOptions, circuits: Circuits, parts: splits.Split, seed: int) -> None:
        self.options, self.circuits, self.parts, self.seed = options.silos, circuits, parts, seed
        names = {view for house in self.options.houses for view in splits.VIEWS[house]}
        self.tokens = {view: tokens(circuits, view) for view in names}
        self.targets = {
            house: target(circuits, self.options.labels[house], parts.train, self.options.bins)
            for house in self.options.houses
            if house != "integrator"
        }

    def federation(self) -> Federation:
        """Return all silos, in the order in which the spec names their houses."""
        held = splits.silos(self.circuits, self.parts.train, self.options, self.seed)
        tested = self._tested([one.house for one in held])
        made = [self._silo(number, one, rows) for number, (one, rows) in enumerate(zip(held, tested, strict=True))]
        types = []
        for house in self.options.houses:
            views: dict[str, View] = {
                view: Tokens(self.tokens[view].vocabulary, self.tokens[view].ids_NT.shape[1]) for view in splits.VIEWS[house]
            }
            types.append(SiloType(_type_name(house), views, self.targets[house][0] if house in self.targets else None))
        return Federation(
            types, made, self._public(), {"circuits": len(self.circuits), "real": int(self.circuits.real().sum())}
        )

    def _tested(self, houses: list[House]) -> list[np.ndarray]:
        """Return what each silo is tested on: no two integrators the same; other houses may meet those functions too."""
        order = numpy_stream(CORPUS_SEED, "circuits", "test").permutation(self.parts.test)
        integrators, gallery = houses.count("integrator"), self.options.gallery
        if integrators * gallery > len(order):
            raise DataError(
                f"data.silos.gallery = {gallery}: {integrators} integrators need {integrators * gallery} functions to be "
                f"tested on, there are {len(order)}; ask for fewer, raise data.split.test, or make more circuits"
            )
        galleries = iter(np.split(order[: integrators * gallery], integrators))
        turn = {house: iter(np.array_split(order, houses.count(house))) for house in set(houses) - {"integrator"}}
        return [next(galleries) if h == "integrator" else next(turn[h])[: self.options.tested] for h in houses]

    def _silo(self, number: int, held: splits.Silo, tested: np.ndarray) -> Silo:
        train, test = (self._samples(held.house, rows) for rows in (held.rows, tested))
        if held.house == "integrator" and self.options.pairing == "shuffled":
            order_N = numpy_stream(self.seed, "circuits", "pairing", number).permutation(len(train))
            train = Samples({**train.views, "netlist": train.views["netlist"][order_N]}, train.keys_N)
        return silo(self.options.mixing, _type_name(held.house), number, train, test, self.seed)

    def _samples(self, house: House, rows: np.ndarray) -> Samples:
        views: dict[str, np.ndarray] = {
            view: self.tokens[view].ids_NT[rows, None].astype(np.int32) for view in splits.VIEWS[house]
        }
        if "netlist" in views and self.options.variants > 1:
            views["netlist"] = np.concatenate([views["netlist"], self._rewritten(rows)], axis=1)
        labels_N = self.targets[house][1][rows] if house in self.targets else None
        return Samples(views, self.circuits.keys_N[rows], labels_N)

    def _rewritten(self, rows: np.ndarray) -> np.ndarray:
        """Return netlists of another structure, or the same where there is none that fits, shape (N, 1, T)."""
        usual_NT = self.tokens["netlist"].ids_NT[rows]
        width = usual_NT.shape[1] // 2
        others = (of_netlist(restructured(self.circuits.netlist(row)), width) for row in rows)
        chosen = [usual_T if other_T is None else other_T for usual_T, other_T in zip(usual_NT, others, strict=True)]
        return np.stack(chosen)[:, None].astype(np.int32)

    def _public(self) -> Samples | None:
        wanted, kept = self.options.public, self.parts.validation
        if not wanted:
            return None
        if wanted > len(kept):
            raise DataError(
                f"data.silos.public = {wanted}: {len(kept)} functions are kept for validation; ask for fewer, raise "
                "data.split.validation, or make more circuits"
            )
        return self._samples("integrator", numpy_stream(self.seed, "circuits", "public").permutation(kept)[:wanted])

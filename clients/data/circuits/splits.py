"""Who learns from which circuits: splits that no function crosses, and the silos of a design chain.

Retrieval between views can be solved by heart if a function is trained on and tested, so everything here goes by
`functions.key`: circuits that compute the same up to names and inversions stay together, in one part and in one silo.

Shapes: N = circuits, F = families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from ....core.errors import DataError
from ....core.options import Options
from ....core.seeds import derive, numpy_stream
from .circuits import Circuits
from .families import FAMILIES, Family
from .tokens import View

House = Literal["rtl", "netlist", "integrator", "truth", "layout"]
VIEWS: dict[House, tuple[View, ...]] = {
    "rtl": ("rtl",),
    "netlist": ("netlist",),
    "integrator": ("rtl", "netlist"),
    "truth": ("truth",),
    "layout": ("layout",),
}
"""Which views of its circuits each kind of silo holds."""


class SplitOptions(Options):
    """How circuits are split."""

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability that a function is kept for validation."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Probability that a function is kept for testing."""
    held_out: tuple[Family, ...] = ()
    """Families of which nothing is trained on: all their circuits are tested on, and no others."""

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitOptions:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"split.test = {self.test}: with split.validation = {self.validation} nothing is left to train on; "
                "their sum must be less than 1"
            )
        return self


@dataclass(frozen=True)
class Split:
    """Row numbers of the parts, ascending; no function is in two of them."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(circuits: Circuits, options: SplitOptions, seed: int) -> Split:
    """Split circuits so that no function crosses.

    The part of a function depends on the seed and its key alone, so circuits that are added, removed or reordered never move
    another from one part to the next. With families held out, these are the test part, and circuits of others that compute
    a held-out function are left out.

    Raises
    ------
    DataError
        If no circuit is left to train or to test on.
    """
    chance_N = np.array([derive(seed, "split", int(key)) / 2**63 for key in circuits.keys_N])
    held_N = np.isin(circuits.families_N, [FAMILIES.index(family) for family in options.held_out])
    if options.held_out:
        test_N = held_N
        free_N = ~np.isin(circuits.keys_N, circuits.keys_N[held_N])
    else:
        test_N, free_N = chance_N < options.test, chance_N >= options.test
    validation_N = free_N & (chance_N >= 1 - options.validation)
    parts = Split(*(np.flatnonzero(part_N) for part_N in (free_N & ~validation_N, validation_N, test_N)))
    if not len(parts.train) or not len(parts.test):
        raise DataError(
            f"split: {len(parts.train)} circuits to train on and {len(parts.test)} to test on; both must be some: "
            "change split.test or split.held_out, or make more circuits"
        )
    return parts


class SilosOptions(Options):
    """Which silos there are, and how many circuits each has."""

    houses: dict[House, Annotated[int, Field(ge=1)]] = Field(default={"rtl": 6, "netlist": 6, "integrator": 4})
    """Silos of each kind."""
    circuits: dict[House, Annotated[int, Field(ge=1)]] = Field(default={"rtl": 100, "netlist": 100, "integrator": 50})
    """Functions that each silo of a kind has; must be given for every kind among `houses`."""
    alpha: Annotated[float, Field(gt=0)] = 0.5
    """Dirichlet parameter of every silo's shares of the families; small values make specialists."""

    @model_validator(mode="after")
    def _every_house_has_circuits(self) -> SilosOptions:
        if not self.houses:
            raise ValueError(f"silos.houses = {{}}: no silo; name some of {', '.join(get_args(House))}")
        for house in self.houses:
            if house not in self.circuits:
                raise ValueError(f"silos.circuits.{house}: missing; silos.houses has {self.houses[house]} of them")
        return self


@dataclass(frozen=True)
class Silo:
    """One client: what kind it is, and the rows of its circuits, ascending."""

    house: House
    rows: np.ndarray

    @property
    def views(self) -> tuple[View, ...]:
        """What it sees of each of its circuits."""
        return VIEWS[self.house]


def silos(circuits: Circuits, rows: np.ndarray, options: SilosOptions, seed: int) -> list[Silo]:
    """Share rows out over silos; no function is in two silos, and every silo has exactly as many functions as asked for.

    Each silo draws its shares of the families from Dirichlet(alpha * the families' shares of what there is), then its
    functions one by one from what is left of the drawn family, or of all where that is used up. (flwr-datasets' partitioner
    cannot do this: with it the sizes, here the variable of interest, are random.)

    Raises
    ------
    DataError
        If there are not enough functions.
    """
    keys, first, which = np.unique(circuits.keys_N[rows], return_index=True, return_inverse=True)
    needed = sum(count * options.circuits[house] for house, count in options.houses.items())
    if needed > len(keys):
        raise DataError(
            f"silos.circuits = {options.circuits}: the silos need {needed} different functions, but there are {len(keys)}; "
            "ask for fewer, or make more circuits"
        )
    random = numpy_stream(seed, "silos")
    owner = _owners(circuits.families_N[rows[first]], options, random)
    houses = [house for house, count in options.houses.items() for _ in range(count)]
    return [Silo(house, np.sort(rows[owner[which] == silo])) for silo, house in enumerate(houses)]


def _owners(families: np.ndarray, options: SilosOptions, random: np.random.Generator) -> np.ndarray:
    """Return which silo has each function, -1 for none, given the functions' families."""
    left = {int(family): list(random.permutation(np.flatnonzero(families == family))) for family in np.unique(families)}
    prior_F = np.array([len(functions) for functions in left.values()]) / len(families)
    owner = np.full(len(families), -1)
    sizes = [options.circuits[house] for house, count in options.houses.items() for _ in range(count)]
    shares_SF = random.dirichlet(options.alpha * len(left) * prior_F, len(sizes))
    wanting = [silo for silo, size in enumerate(sizes) for _ in range(size)]
    for silo in random.permutation(wanting):  # in turns, so that no silo finds only what others have left
        open_F = np.array([len(functions) > 0 for functions in left.values()])
        share_F = shares_SF[silo] * open_F
        share_F = share_F / share_F.sum() if share_F.sum() > 0 else open_F / open_F.sum()
        owner[left[list(left)[random.choice(len(left), p=share_F)]].pop()] = silo
    return owner

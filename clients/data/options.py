"""What the `[data]` section of an experiment accepts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import Field, field_validator, model_validator

from ...core.options import Options

# A field that only one choice uses: (field, the choice's field, the values that use it, whether those demand it).
_BELONGS = (
    ("path", "source", ("fashion-mnist", "mnist", "cifar10", "hub"), False),
    ("dataset", "source", ("hub",), False),
    ("splits", "source", ("hub",), False),
    ("image_column", "source", ("hub",), False),
    ("label_column", "source", ("hub",), False),
    ("natural_id_column", "source", ("hub",), False),
    ("synthetic_shape", "source", ("synthetic",), True),
    ("synthetic_classes", "source", ("synthetic",), True),
    ("alpha", "partition", ("dirichlet",), True),
    ("classes_per_client", "partition", ("pathological",), True),
    ("shards_per_client", "partition", ("shard",), True),
    ("natural_id_column", "partition", ("natural",), True),
)
_EXACT = ("train_per_client", "validation_per_client", "test_per_client")
_FRACTIONS = ("validation_fraction", "test_fraction")


class DataOptions(Options):
    """What `[data]` accepts: where images come from, how clients share them, and how each client splits its own.

    A field that the chosen source or partition does not use is refused, so that no setting is silently without effect.
    """

    source: Literal["digits", "fashion-mnist", "mnist", "cifar10", "hub", "synthetic"]
    """Where the images come from."""
    path: str | None = None
    """Folder with the source's files; without it, $FEDCOSIM_DATA/<source> and the system's places are searched."""
    dataset: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")] | None = None
    """hub: name of a Hugging Face data set, such as "ylecun/mnist" (or give `path`, a local copy)."""
    splits: Annotated[tuple[str, ...], MinLen(1)] | None = None
    """hub: splits to merge; all of them if not given."""
    image_column: str | None = None
    """hub: column with the images; needed where several could be meant."""
    label_column: str | None = None
    """hub: column with the labels; needed where several could be meant."""
    natural_id_column: str | None = None
    """hub: column that says whose sample it is (writer, patient, device), for partition = "natural"."""
    synthetic_shape: str | None = None
    """synthetic: channels x height x width, such as "3x32x32"."""
    synthetic_classes: Annotated[int, Ge(2)] | None = None
    """synthetic: number of classes."""

    partition: Literal["iid", "dirichlet", "pathological", "shard", "natural"] = "iid"
    """How the samples are shared out over clients."""
    alpha: Annotated[float, Gt(0)] | None = None
    """dirichlet: concentration; the smaller, the more a client's labels are skewed."""
    classes_per_client: Annotated[int, Ge(1)] | None = None
    """pathological: number of classes each client holds."""
    shards_per_client: Annotated[int, Ge(1)] | None = None
    """shard: number of label-sorted shards each client holds."""
    transform: Literal["none", "domains", "rotated-labels"] = "none"
    """domains: client i sees domain i mod 4; rotated-labels: four rotations of each class are four classes."""

    samples: Annotated[int, Ge(1)] | None = None
    """Use only this many samples of the source, drawn at random; all of them if not given."""
    min_per_client: Annotated[int, Ge(1)] | None = None
    """Least number of samples of every client, of all kinds together; a random partition is drawn again until it holds."""
    train_per_client: Annotated[int, Ge(1)] | None = None
    """Exact number of training samples of every client."""
    validation_per_client: Annotated[int, Ge(0)] | None = None
    """Exact number of validation samples of every client; 0 if only the other sizes are given."""
    test_per_client: Annotated[int, Ge(1)] | None = None
    """Exact number of test samples of every client."""
    validation_fraction: Annotated[float, Ge(0), Lt(1)] | None = None
    """Share of each client's samples held out for validation; 0 if neither this nor exact sizes are given."""
    test_fraction: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of each client's samples held out for testing; 0.2 if neither this nor exact sizes are given."""

    @property
    def exact_sizes(self) -> tuple[int, int, int] | None:
        """Train, validation and test samples of every client, or None where fractions decide."""
        if self.train_per_client is None or self.test_per_client is None:
            return None
        return self.train_per_client, self.validation_per_client or 0, self.test_per_client

    @property
    def fractions(self) -> tuple[float, float]:
        """Validation and test share of each client's samples, where no exact sizes are given."""
        return self.validation_fraction or 0.0, 0.2 if self.test_fraction is None else self.test_fraction

    @property
    def samples_needed(self) -> int:
        """Samples that every client must get from the partition: its exact sizes, or at least `min_per_client`."""
        return sum(self.exact_sizes or (self.min_per_client or 1,))

    @field_validator("synthetic_shape")
    @classmethod
    def _shape_is_three_sizes(cls, text: str | None) -> str | None:
        sizes = (text or "1x1x1").split("x")
        if len(sizes) != 3 or not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
            raise ValueError("write channels x height x width, such as '3x32x32'")
        return text

    @model_validator(mode="after")
    def _every_field_has_a_use(self) -> DataOptions:
        if self.partition == "natural" and self.source != "hub":
            raise ValueError(f"data.partition = 'natural': only source = 'hub' knows whose a sample is, not {self.source!r}")
        for field, owner, users, needed in _BELONGS:
            self._check_use(field, owner, users, needed)
        return self

    def _check_use(self, field: str, owner: str, users: tuple[str, ...], needed: bool) -> None:
        value, choice = getattr(self, field), getattr(self, owner)
        if value is not None and choice not in users:
            allowed = " or ".join(repr(user) for user in users)
            raise ValueError(f"data.{field} = {_toml(value)}: only {owner} = {allowed} uses it; the {owner} is {choice!r}")
        if value is None and needed and choice in users:
            raise ValueError(f"data.{field}: missing; {owner} = {choice!r} needs it")

    @model_validator(mode="after")
    def _hub_has_one_origin(self) -> DataOptions:
        if self.source == "hub" and self.path is None and self.dataset is None:
            raise ValueError("data.dataset: missing; source = 'hub' needs a data set's name, or data.path to a local copy")
        if self.path is not None and self.dataset is not None:
            raise ValueError(f"data.dataset = {self.dataset!r}: data.path is given too; choose one of the two")
        return self

    @model_validator(mode="after")
    def _sizes_agree(self) -> DataOptions:
        exact = [field for field in _EXACT if getattr(self, field) is not None]
        fractions = [field for field in _FRACTIONS if getattr(self, field) is not None]
        if exact and fractions:
            field = fractions[0]
            raise ValueError(f"data.{field} = {getattr(self, field)}: {exact[0]} gives exact sizes; choose one of the two")
        if exact and self.min_per_client is not None:
            raise ValueError(
                f"data.min_per_client = {self.min_per_client}: {exact[0]} gives exact sizes; choose one of the two"
            )
        for field in ("train_per_client", "test_per_client"):
            if exact and field not in exact:
                raise ValueError(f"data.{field}: missing; {exact[0]} gives exact sizes, so this must be given too")
        if sum(self.fractions) >= 1:
            validation, test = self.fractions
            raise ValueError(
                f"data.test_fraction = {test}: with validation_fraction = {validation} nothing is left to train on; "
                "their sum must be less than 1"
            )
        return self

    @model_validator(mode="after")
    def _synthetic_is_exact(self) -> DataOptions:
        if self.source != "synthetic":
            return self
        if self.partition != "iid":
            raise ValueError(
                f"data.partition = {self.partition!r}: source = 'synthetic' makes just what 'iid' needs; choose 'iid'"
            )
        if self.exact_sizes is None:
            raise ValueError("data.train_per_client: missing; source = 'synthetic' needs train_per_client and test_per_client")
        return self


def fields_of(source: str) -> list[str]:
    """Return the fields of `[data]` that have a use with a source: its own, and those of every source."""
    foreign = {field for field, owner, users, _ in _BELONGS if owner == "source" and source not in users}
    return [field for field in DataOptions.model_fields if field != "source" and field not in foreign]


def _toml(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)

"""The roofline simulator: a request names a device and what runs on it; the report says what that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from ...core.options import Options
from ..devices import Device, device, devices
from ..simulator import HwsimError, Job
from .architecture import presets
from .energy import EnergyModel
from .estimate import RooflineReport, estimate
from .llm import LlmRequest
from .llm import workload as llm_workload
from .workload import Precision, Workload

if TYPE_CHECKING:
    from .trace import Example

Dimension = Annotated[int, Field(ge=1, le=65_536)]


class ModelRequest(Options):
    """An architecture that the simulator knows by name, and what is done with it."""

    name: Annotated[str, Field(max_length=100)]
    """Such as `lenet` or `vit-b16`."""
    batch: Annotated[int, Field(ge=1, le=1_048_576)] = 1
    """Samples in a step."""
    train: bool = False
    """Forward, backward and the optimizer's step; else one forward pass."""
    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = "sgd"
    """What updates the parameters; momentum is that of SGD."""
    per_sample: bool = False
    """DP-SGD: a gradient for every sample."""
    precision: Precision = "fp32"
    """Chooses the device's rate; amounts of memory stay those of fp32 numbers."""
    channels: Dimension | None = None
    """Of the images; the architecture's usual ones when absent."""
    height: Dimension | None = None
    width: Dimension | None = None
    classes: Dimension | None = None


Models = Callable[[ModelRequest], "Example"]
"""Builds what a request names."""


class RooflineRequest(Options):
    """What runs where: one device, and exactly one of a workload, a model and a language model."""

    device: Annotated[str, Field(max_length=100)] | None = None
    """Name of a device; or give `custom`."""
    custom: Device | None = None
    """A device that has no name here."""
    workload: Workload | None = None
    """Operators, analysed by the caller."""
    model: ModelRequest | None = None
    """An architecture that the service knows."""
    llm: LlmRequest | None = None
    """A large language model that reads or generates text."""
    energy_model: EnergyModel = "7nm"
    """Whose constants: Jouppi et al. 2021 (7 nm) or Horowitz 2014 (45 nm)."""
    precision_fallback: bool = False
    """Use wider units where the device has none of the precision asked for."""
    most_operators: Annotated[int, Field(ge=0, le=100_000)] = 20
    """Rows in the report, slowest first; 0 for all, in order."""

    @field_validator("llm", mode="wrap")
    @classmethod
    def _named_in_full(cls, given: object, parse: ValidatorFunctionWrapHandler) -> LlmRequest | None:
        with _fields_of("llm"):
            return parse(given)

    @model_validator(mode="after")
    def _one_of_each(self) -> RooflineRequest:
        for names in (("device", "custom"), ("workload", "model", "llm")):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) != 1:
                got = " and ".join(given) or "none"
                raise ValueError(f"{names[0]}: give exactly one of {', '.join(names)}, not {got}")
        return self


@contextmanager
def _fields_of(section: str) -> Iterator[None]:
    """Let errors name a section's fields as the whole request does."""
    try:
        yield
    except HwsimError as error:
        separator = "." if error.field else ": "
        raise HwsimError(f"{section}{separator}{error}", error.code, f"{section}.{error.field}".rstrip(".")) from None


class Roofline:
    """Answers `RooflineRequest`s.

    Parameters
    ----------
    models : callable, optional
        Builds models by name; without it, requests that name one are refused.
    model_names : sequence of str
        The names that it knows.
    """

    service = "Roofline"
    Request = RooflineRequest
    Report = RooflineReport
    takes_traces = False

    def __init__(self, models: Models | None = None, model_names: Sequence[str] = ()) -> None:
        self._models, self._model_names = models, list(model_names)

    @classmethod
    def make(cls, models: Models | None = None, model_names: Sequence[str] = (), **_: object) -> Roofline:
        """Make one from what its host has."""
        return cls(models, model_names)

    def estimate(self, request: RooflineRequest, job: Job = Job()) -> RooflineReport:  # noqa: B008 - immutable
        """Say what the request's work takes.

        Raises
        ------
        HwsimError
            NOT_FOUND for unknown names, FAILED_PRECONDITION where the device cannot do it, UNIMPLEMENTED for models that
            cannot be analysed, RESOURCE_EXHAUSTED for amounts beyond 2^63.
        """
        where = request.custom or device(request.device or "")
        job.step(0.1)
        workload = request.workload or self._analysed(request, where, job)
        job.step(0.9)
        return estimate(
            request.device or "custom",
            where,
            workload,
            energy_model=request.energy_model,
            precision_fallback=request.precision_fallback,
            most_operators=request.most_operators,
        )

    def capabilities(self) -> dict[str, list[str]]:
        """Return the devices, models and language models that requests can name."""
        return {"device": list(devices()), "model.name": self._model_names, "llm.model": list(presets())}

    def limits(self) -> dict[str, int]:
        """Return none: fields have their own."""
        return {}

    def warm_up(self) -> None:
        """Do nothing: nothing is compiled."""

    def _analysed(self, request: RooflineRequest, where: Device, job: Job) -> Workload:
        if request.llm is not None:
            peak = where.peak.model_dump().get(request.llm.precision)
            with _fields_of("llm"):
                return llm_workload(request.llm, where.buffer_bytes, peak / where.memory_bytes_per_s if peak else None)
        from . import trace

        model = request.model
        if self._models is None or model is None:
            raise HwsimError("model: this service knows no models; give a workload", "UNIMPLEMENTED", "model")
        example = self._models(model)
        try:
            if model.train:
                return trace.training_step(example, model.optimizer, model.precision, model.per_sample, job)
            return trace.inference(example, model.precision, job)
        except ValidationError:
            raise HwsimError(
                "model: needs more than 2^63 operations or bytes; choose a smaller batch or image",
                "RESOURCE_EXHAUSTED",
                "model",
            ) from None

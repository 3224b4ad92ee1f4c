"""ReRAM as a host sees it: requests, reports, and where the names of models and data lead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, get_args

from ..simulator import HwsimError, Job
from .adc import Kind
from .report import ReramReport
from .request import ReramRequest
from .simulator import check, estimate

if TYPE_CHECKING:
    from torch import nn

    from .functional import Samples


class Trained(Protocol):
    """Gives models with weights, and samples of data, by the names that requests use."""

    @property
    def models(self) -> Sequence[str]:
        """Names of models."""

    @property
    def data(self) -> Sequence[str]:
        """Names of data sets."""

    def __call__(self, request: ReramRequest, job: Job) -> tuple[nn.Module, Samples]:
        """Prepare what a request names.

        Raises
        ------
        HwsimError
            NOT_FOUND for unknown names, FAILED_PRECONDITION if data are not here or a checkpoint does not fit.
        """


class Reram:
    """Answers `ReramRequest`s: what a model on ReRAM crossbars takes, and how accurate it is behind their converters.

    Parameters
    ----------
    trained : Trained, optional
        Without it, requests that run samples are refused.
    """

    service = "Reram"
    Request = ReramRequest
    Report = ReramReport
    takes_traces = False

    def __init__(self, trained: Trained | None = None) -> None:
        self._trained = trained

    @classmethod
    def make(cls, trained: Trained | None = None, **_: object) -> Reram:
        """Make one from what its host has."""
        return cls(trained)

    def estimate(self, request: ReramRequest, job: Job = Job()) -> ReramReport:  # noqa: B008 - immutable
        """Answer a request; raises what `simulator.estimate` and the host's `Trained` do."""
        if request.mode == "stats":
            return estimate(request, job)
        check(request)
        if self._trained is None:
            raise HwsimError(
                "mode = 'functional': this service has no models and data; choose 'stats'", "UNIMPLEMENTED", "mode"
            )
        return estimate(request, job, *self._trained(request, job))

    def capabilities(self) -> dict[str, list[str]]:
        """Return the models, data sets and kinds of converters that requests can name."""
        models, data = ([], []) if self._trained is None else (self._trained.models, self._trained.data)
        return {"model": list(models), "data": list(data), "adc.kind": list(get_args(Kind))}

    def limits(self) -> dict[str, int]:
        """Return none: fields have their own."""
        return {}

    def warm_up(self) -> None:
        """Compile all kernels, by running a tiny layer on crossbars."""
        import torch

        from .functional import Samples

        with torch.random.fork_rng(devices=[]):
            layer = torch.nn.Sequential(torch.nn.Linear(16, 4)).eval()
        x_NI = torch.linspace(0, 1, 8 * 16).reshape(8, 16)
        estimate(ReramRequest(), Job(), layer, Samples(x_NI, None, None, x_NI, None))

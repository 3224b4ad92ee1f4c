"""Differential privacy on one client: how much noise a promise asks for, DP-SGD, and the ledger of what has been released.

The promise is (epsilon, delta) for adding or removing one record. Everything a client releases is a Gaussian mechanism, over
all records or over a Poisson sample of them, so all of it composes into one curve of Renyi divergences (RDP: Mironov et al.,
arXiv:1908.10530, computed by Opacus), which becomes epsilon by Balle et al., arXiv:1905.09982, theorem 21. Training is DP-SGD
(Abadi et al., arXiv:1607.00133, algorithm 1); several noise draws of one record are averaged before its gradient is clipped,
as in Dockhorn et al., arXiv:2210.09929 ("noise multiplicity"), so that they cost no privacy.

Ours: how the budget is shared out. A Gaussian of noise multiplier sigma has the RDP rho * order with rho = 1 / (2 sigma^2);
the whole budget is the largest rho that keeps the promise, counts and template get their shares of it, and training gets as
little noise as the promise then allows to all releases together.

This is a simulation: noise comes from seeded generators, so that runs repeat, and whoever knows the seed can take it off again.
A deployed client would draw from a secret source and guard against what floating-point numbers tell (Opacus' `secure_mode`).

Shapes: N = records, K = classes.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType, TracebackType
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from flwr.app import ConfigRecord
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.errors import SpecError, StateError
from ..core.options import Options

# Renyi orders: for any epsilon above 0.1 the best of these shows within 0.2 % of what the best of all would. Opacus' own end at
# 63, which shows nothing below 0.1. Above 1024 its binomials overflow, and close to a whole number, at 3 + 4e-16, they vanish:
# hence the rounding.
ORDERS: tuple[float, ...] = (
    *(1 + np.geomspace(0.1, 1.35, 19)).round(3).tolist(),
    *np.arange(2.5, 5, 0.1).round(1).tolist(),
    *np.arange(5, 12, 0.25).tolist(),
    *np.arange(12.0, 64).tolist(),
    *np.geomspace(64, 1024, 60).round().tolist(),
)
TIGHTNESS = 0.995  # share of the promised epsilon that a plan uses at least


class PrivacyOptions(Options):
    """What `[privacy]` accepts: differential privacy for one record of a client, added or removed."""

    epsilon: Annotated[float, Field(gt=0)]
    """What all releases of one client together may spend."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Must be below 1 / (records of a client)."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """L2 norm to which one record's gradient is clipped."""
    histogram_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the RDP budget for the noisy counts of labels, or of records."""
    template_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the RDP budget for the Fourier template; spent only where one is released."""
    participations: Annotated[int, Field(ge=1)] | None = None
    """Rounds of training that the budget must last for; absent: all rounds of the run."""

    @model_validator(mode="after")
    def _something_is_left_for_training(self) -> PrivacyOptions:
        if self.histogram_share + self.template_share >= 1:
            raise ValueError(
                f"privacy.histogram_share = {self.histogram_share}: with privacy.template_share = {self.template_share} "
                "nothing is left for training; the two must sum to less than 1"
            )
        least = _conversion(self.delta, ORDERS).min()
        if self.epsilon <= least:
            raise ValueError(
                f"privacy.epsilon = {self.epsilon}: cannot be shown at privacy.delta = {self.delta}, however much noise; "
                f"choose more than {least:.3g}"
            )
        return self


Kind = Literal["training", "histogram", "template"]


@dataclass(frozen=True)
class Release:
    """One Gaussian mechanism that a client has run, `steps` times, on a Poisson sample of its records.

    Attributes
    ----------
    sigma : float
        Standard deviation of the noise over the L2 sensitivity to adding or removing one record.
    sample_rate : float
        Probability of each record to be in a step's sample; 1 for all records.
    """

    kind: Kind
    sigma: float
    sample_rate: float = 1.0
    steps: int = 1


class Ledger:
    """Everything one client has released.

    Parameters
    ----------
    delta : float
        The promised delta, at which epsilon is told.
    releases : iterable of Release
        What is in it from the start.
    """

    def __init__(self, delta: float, releases: Iterable[Release] = ()) -> None:
        self.delta = delta
        self._steps: dict[tuple[Kind, float, float], int] = {}
        for release in releases:
            self.add(release)

    def add(self, release: Release) -> None:
        """Enter a release; steps of one kind with the same noise and sampling rate are one entry."""
        key = (release.kind, release.sigma, release.sample_rate)
        self._steps[key] = self._steps.get(key, 0) + release.steps

    @property
    def releases(self) -> tuple[Release, ...]:
        """What has been released, in the order of first entries."""
        return tuple(Release(*key, steps) for key, steps in self._steps.items())

    def epsilon(self) -> float:
        """Return what has been spent by RDP accounting, 0 for nothing: the figure that is reported."""
        return _epsilon(self.releases, self.delta, ORDERS) if self._steps else 0.0

    def epsilon_prv(self) -> float:
        """Return what has been spent by the tighter PRV accounting (Gopi et al., arXiv:2106.02848): a cross-check."""
        if not self._steps:
            return 0.0
        accountant = _opacus().accountants.PRVAccountant()
        accountant.history = [(release.sigma, release.sample_rate, release.steps) for release in self.releases]
        with np.errstate(divide="ignore"), warnings.catch_warnings():
            # log(1 - rate) is minus infinity where all records are used, rightly; orders only bound the domain here
            warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
            return float(accountant.get_epsilon(self.delta))

    def to_record(self) -> ConfigRecord:
        """Write the ledger as parallel lists, which a client's state or a message can hold."""
        kinds, sigmas, rates = map(list, zip(*self._steps, strict=True)) if self._steps else ([], [], [])
        return ConfigRecord({"kind": kinds, "sigma": sigmas, "sample_rate": rates, "steps": list(self._steps.values())})

    @classmethod
    def from_record(cls, record: ConfigRecord, delta: float) -> Ledger:
        """Undo `to_record`.

        Raises
        ------
        StateError
            If the record is not one that `to_record` wrote.
        """
        try:
            columns = [record[name] for name in ("kind", "sigma", "sample_rate", "steps")]
            releases = [Release(*row) for row in zip(*columns, strict=True)]  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a privacy ledger: {error}") from None
        if odd := [release for release in releases if release.kind not in get_args(Kind)]:
            raise StateError(f"not a privacy ledger: it tells of a release of kind {odd[0].kind!r}")
        return cls(delta, releases)


def _epsilon(releases: Iterable[Release], delta: float, orders: tuple[float, ...]) -> float:
    """Compose releases and take the order that shows the least."""
    rdp = sum(release.steps * _rdp(release.sigma, release.sample_rate, orders) for release in releases)
    return max(0.0, float(np.nanmin(rdp + _conversion(delta, orders))))


def _conversion(delta: float, orders: tuple[float, ...]) -> np.ndarray:
    """Return what epsilon exceeds the RDP by at each order (arXiv:1905.09982, theorem 21)."""
    order = np.asarray(orders)
    return np.log1p(-1 / order) - (math.log(delta) + np.log(order)) / (order - 1)


@lru_cache(maxsize=4096)
def _rdp(sigma: float, sample_rate: float, orders: tuple[float, ...]) -> np.ndarray:
    """Return the RDP of one step at each order."""
    compute_rdp = _opacus().accountants.analysis.rdp.compute_rdp
    return np.asarray(compute_rdp(q=sample_rate, noise_multiplier=sigma, steps=1, orders=orders))


@lru_cache(maxsize=1)
def _opacus() -> ModuleType:
    """Import Opacus where it is used, for that takes seconds, and without its log handler, which would double Flower's log."""
    handlers = list(logging.root.handlers)
    import opacus

    logging.root.handlers[:] = handlers
    return opacus


@dataclass(frozen=True)
class Noise:
    """The noise multipliers that keep a promise; `template` is None where none is released."""

    training: float
    histogram: float
    template: float | None


@dataclass(frozen=True)
class Private:
    """How a model is to be trained by DP-SGD: noise multiplier, clip norm of a record's gradient, where the noise is from."""

    sigma: float
    max_grad_norm: float
    noise: torch.Generator

    def rehearsal(self) -> Private:
        """Return the same with throw-away noise: for a step that is only looked at."""
        return Private(self.sigma, self.max_grad_norm, torch.Generator())


@lru_cache(maxsize=4096)
def plan(options: PrivacyOptions, trainings: tuple[tuple[float, int], ...], template: bool) -> Noise:
    """Find the noise with which a client can release all it is to release and keep the promise.

    Parameters
    ----------
    trainings : tuple of (float, int)
        Sampling rate and number of steps, over the whole run, of everything that is trained by DP-SGD.
    template : bool
        A Fourier template is released too.

    Returns
    -------
    Noise
        One histogram, one template if any, and the trainings, all at one sigma, spend at most `options.epsilon` together and
        at least 99.5 % of it.
    """
    conversion = _conversion(options.delta, ORDERS)
    budget = float(np.max((options.epsilon - conversion) / ORDERS))
    histogram = (2 * options.histogram_share * budget) ** -0.5
    fixed = [Release("histogram", histogram)]
    if template:
        fixed.append(Release("template", (2 * options.template_share * budget) ** -0.5))
    left = options.epsilon - conversion - sum(_rdp(release.sigma, 1.0, ORDERS) for release in fixed)
    orders = tuple(order for order, rdp in zip(ORDERS, left, strict=True) if rdp > 0)  # no other order can show the promise

    def spends(sigma: float) -> float:
        return _epsilon([*fixed, *(Release("training", sigma, *training) for training in trainings)], options.delta, orders)

    low = high = 1.0
    while spends(high) > options.epsilon:
        low, high = high, 2 * high
    while spends(low) <= options.epsilon:
        low, high = low / 2, low
    while spends(high) < TIGHTNESS * options.epsilon:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spends(middle) <= options.epsilon else (middle, high)
    return Noise(high, histogram, fixed[-1].sigma if template else None)


def check_records(options: PrivacyOptions, num_records: int, batch_size: int, client: int) -> None:
    """Refuse a client for which the promise, or DP-SGD, makes no sense.

    Raises
    ------
    SpecError
        If delta is not below 1 / records, which would allow to publish a record, or a step would sample more than half of
        the records.
    """
    problems = []
    if options.delta * num_records >= 1:
        problems.append(
            f"privacy.delta = {options.delta}: client {client} has {num_records} records; "
            f"choose less than {1 / num_records:.3g}"
        )
    if 2 * batch_size > num_records:
        allowed = f"choose at most {num_records // 2}" if num_records > 1 else "no batch size is small enough"
        problems.append(
            f"batch_size = {batch_size} (of train or strategy.generator): more than half of the {num_records} records of "
            f"client {client}, which sampling would hardly hide; {allowed}, or give it more data"
        )
    if problems:
        raise SpecError(problems)


def noisy_counts(counts_K: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Return counts with Gaussian noise, float32, not below 0, shape (K,).

    One record more or less changes one count by 1, so the L2 sensitivity is 1 and `sigma` the standard deviation.
    """
    return (counts_K + sigma * torch.randn(counts_K.shape, generator=generator)).clamp(min=0)


def poisson_batches(num_records: int, sample_rate: float, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices, int64, of every step's records, each of which is in with probability `sample_rate`; maybe none."""
    for _ in range(steps):
        yield torch.nonzero(torch.rand(num_records, generator=generator) < sample_rate).flatten()


class DpSgd:
    """Steps of DP-SGD on one model, by Opacus: one clipped vector a record, noise on their sum, over the expected batch.

    A context manager: while it is open the model carries Opacus' hooks; `close` takes them off. Memory for gradients is
    records x draws x parameters. The model must be in training mode, which Opacus demands; dropout layers need not be.

    Parameters
    ----------
    optimizer : Optimizer
        Of the model's parameters; gets the noisy mean gradient.
    sigma : float
        Standard deviation of the noise on the sum over `max_grad_norm`.
    max_grad_norm : float
        L2 norm to which the gradient of one record is clipped.
    expected_batch : int
        What the sum is divided by. Never the number of records that were sampled, which is private.
    noise : torch.Generator
        Gives the noise.
    draws : int
        Rows a record; their losses are averaged, so their number changes nothing of what one record can do.

    Raises
    ------
    SpecError
        If Opacus has no gradient of one record for a layer of the model, as with BatchNorm, which mixes records.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        sigma: float,
        max_grad_norm: float,
        expected_batch: int,
        noise: torch.Generator,
        draws: int = 1,
    ) -> None:
        opacus = _opacus()
        if problems := [*opacus.validators.ModuleValidator.validate(model), *opacus.GradSampleModule.validate(model)]:
            raise SpecError(f"privacy: DP-SGD cannot train this model: {str(problems[0]).split('. ')[0]}")
        self.model, self.draws = model, draws
        self._row_major = [m.register_forward_pre_hook(_row_major) for m in model.modules() if isinstance(m, nn.Conv2d)]
        self._grad_samples = opacus.GradSampleModule(model, loss_reduction="sum")
        self._optimizer = opacus.optimizers.DPOptimizer(
            optimizer,
            noise_multiplier=sigma,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch,
            generator=noise,
        )

    def step(self, row_losses: Callable[[nn.Module], Tensor], records: int) -> None:
        """Take one step; with no record it is a step of noise alone, and counts as any other.

        Parameters
        ----------
        row_losses : callable
            Takes the model to one loss a row, shape (records * draws,), the draws of one record side by side. Not called
            where there are no records.
        records : int
            How many records were sampled.
        """
        self._optimizer.zero_grad(set_to_none=True)
        if records:
            loss = row_losses(self.model).unflatten(0, (records, self.draws)).mean(1).sum()
            with (
                warnings.catch_warnings()
            ):  # torch warns where a layer's input needs no gradient, as the first one's never does
                warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
                loss.backward()
        for parameter in self._optimizer.params:
            rows = parameter.grad_sample  # type: ignore[attr-defined]
            if rows is None:  # no records, or a parameter that no loss depends on
                rows = parameter.new_zeros(records * self.draws, *parameter.shape)
            # in the parameter's precision before norms are taken: a rounded norm would let a record exceed the clip
            parameter.grad_sample = rows.to(parameter.dtype).unflatten(0, (records, self.draws)).sum(1)  # type: ignore[attr-defined]
        self._optimizer.step()

    def close(self) -> None:
        """Leave the model as it was found, but for its weights."""
        self._optimizer.zero_grad(set_to_none=True)
        self._grad_samples.to_standard_module()
        for hook in self._row_major:
            hook.remove()
        for parameter in self._optimizer.params:
            vars(parameter).pop("summed_grad", None)
        for module in self.model.modules():
            vars(module).pop("activations", None)

    def __enter__(self) -> DpSgd:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _row_major(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Lay a convolution's input out as NCHW.

    Opacus (1.6) unfolds it by strides that are only right for that layout. Inputs in channels_last, which also come from
    transposed outputs such as those of diffusers' `Attention`, would silently give wrong gradients.
    """
    return (inputs[0].contiguous(), *inputs[1:])

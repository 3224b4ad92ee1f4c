"""Functional estimates: every bit line of real samples is converted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

from ..simulator import HwsimError, Job
from .adc import Adc, AdcOptions, Uniform, fixed
from .calibrate import Calibration, Choice, Histogram, Layer, Setting, calibrate
from .crossbar import QUIET
from .nonideal import noisy_cells
from .phases import Shape
from .report import Findings, ReramReport, assemble
from .request import ReramRequest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .convert import CrossbarModel, MappedLayer


@dataclass(frozen=True)
class Samples:
    """What "functional" runs. Labels may be missing; then accuracy is not known.

    Attributes
    ----------
    calibration_x : Tensor
        For ranges of activations and histograms of bit lines.
    tuning_x, tuning_y : Tensor or None
        For the error that is allowed. Not the test's.
    test_x, test_y : Tensor or None
        For what is reported; run once.
    """

    calibration_x: Tensor
    tuning_x: Tensor | None
    tuning_y: Tensor | None
    test_x: Tensor
    test_y: Tensor | None


class Functional:
    """One functional estimate: convert, count, tune, test."""

    def __init__(self, request: ReramRequest, job: Job, model: nn.Module, data: Samples) -> None:
        from .convert import CrossbarModel, MappedConv, ideal_cells

        self.request, self.job, self.data = request, job, data
        self.quiet = replace(job, progress=QUIET.progress)
        self._check_data()
        store = ideal_cells if request.nonideal.is_ideal else noisy_cells(request.nonideal)
        self.model: CrossbarModel = CrossbarModel(model, request.crossbar, data.calibration_x, store)
        self.model.session.workers = request.workers
        self.shapes = [
            Shape(
                layer.name,
                "conv" if isinstance(layer, MappedConv) else "linear",
                layer.crossbars.inputs,
                layer.crossbars.outputs,
                layer.crossbars.groups,
                layer.positions,
            )
            for layer in self.model.layers
        ]
        self.settled = fixed(request.adc, request.crossbar, len(self.shapes))
        self._check_size()
        self.warnings: list[str] = []

    def _check_data(self) -> None:
        import torch

        for name in ("calibration_x", "tuning_x", "test_x"):
            x = getattr(self.data, name)
            if x is None:
                continue
            if len(x) == 0:
                raise HwsimError(f"data.{name}: is empty; at least one sample is needed", field="data")
            if not bool(torch.isfinite(x).all()):
                raise HwsimError(f"data.{name}: is not finite", field="data")
        for x, y, name in ((self.data.tuning_x, self.data.tuning_y, "tuning"), (self.data.test_x, self.data.test_y, "test")):
            if y is not None and (x is None or len(x) != len(y)):
                raise HwsimError(f"data.{name}_y: {len(y)} labels for {0 if x is None else len(x)} samples", field="data")

    def _check_size(self) -> None:
        request = self.request
        mapped = self.model.mapped_macs / self.model.macs
        if mapped < request.least_mapped:
            raise HwsimError(
                f"model: {mapped:.3g} of its multiply-accumulates can be in crossbars, least_mapped = {request.least_mapped}; "
                f"not mapped are {', '.join(self.model.unmapped) or 'products outside of modules'}",
                "UNIMPLEMENTED",
                "model",
            )
        sample = sum(shape.conversions(request.crossbar) for shape in self.shapes)
        tuning = 0 if self.data.tuning_x is None else len(self.data.tuning_x)
        needed = sample * (2 * len(self.data.test_x) + 2 * request.calibration.samples + 10 * tuning)
        if needed > request.most_conversions:
            raise HwsimError(
                f"most_conversions = {request.most_conversions:g}: up to {needed:.2g} conversions would be simulated, "
                f"{sample} a sample; give fewer samples, or choose mode 'stats'",
                "RESOURCE_EXHAUSTED",
                "most_conversions",
            )

    def report(self) -> ReramReport:
        """Do everything, in order."""
        request, data, model = self.request, self.data, self.model
        self._observe()
        histograms = self._histograms()
        self.job.step(0.1)
        uniform = self._calibrate(request.baseline, histograms)
        accuracy_uniform = _accuracy(self._run(uniform.choices, data.test_x), data.test_y)
        self.job.step(0.4)
        settled = self.settled
        found = self._given(*settled, histograms) if settled else self._calibrate(request.adc, histograms)
        if not found.kept:
            self.warnings.append("calibration: not even the lowest price of a step keeps the budget on tuning data")
        self.job.step(0.7)
        measured = self._measured_errors(found.choices)
        # columns with converters of their own are told apart by a histogram only
        logits = self._run(found.choices, data.test_x, histogram=len(found.choices[0].settings) > 1)
        counted = [_counted(choice, layer) for choice, layer in zip(found.choices, model.layers, strict=True)]
        findings = Findings(
            self.shapes,
            counted,
            uniform.choices,
            sum(crossbars.crossbars for crossbars in model.stored),
            model.macs - model.mapped_macs,
            model.unmapped,
            self.warnings,
            [histogram.levels for histogram in histograms],
            measured,
            None if settled else found.price,
            _accuracy(model.run_float(data.test_x, self.quiet), data.test_y),
            _accuracy(model.run(data.test_x, "integer", self.quiet), data.test_y),
            _accuracy(logits, data.test_y),
            accuracy_uniform,
            found.trials,
            uniform.trials,
            (len(data.calibration_x), 0 if data.tuning_x is None else len(data.tuning_x), len(data.test_x)),
        )
        self.job.step(1.0)
        return assemble(request, findings)

    def _observe(self) -> None:
        self.model.observe(self.data.calibration_x, self.quiet)
        for layer in self.model.layers:
            if layer.low < 0 and self.request.activations == "unsigned":
                raise HwsimError(
                    f"activations = 'unsigned': layer {layer.name} gets inputs down to {layer.low:.3g}; choose 'any'",
                    field="activations",
                )
            if layer.is_dead:
                self.warnings.append(f"layer {layer.name}: calibration data give it nothing but zeros; it returns its bias")

    def _histograms(self) -> list[Histogram]:
        """Count the bit lines of calibration samples with lossless converters."""
        model, crossbar = self.model, self.request.crossbar
        model.set_adcs([[Uniform(crossbar.full_bits)]] * len(model.layers), histogram=True)
        self._run_measured()
        return [layer.histogram() for layer in model.layers]

    def _given(self, adcs: list[tuple[Adc, ...]], warnings: list[str], histograms: list[Histogram]) -> Calibration:
        self.warnings += warnings
        skip = self.request.adc.zero_skip
        layers = [Layer(histogram, [[adc] for adc in own], skip) for histogram, own in zip(histograms, adcs, strict=True)]
        return Calibration([layer.cheapest(0) for layer in layers], 0)

    def _calibrate(self, adc: AdcOptions, histograms: list[Histogram]) -> Calibration:
        layers = []
        for histogram in histograms:
            self.quiet.step()
            layers.append(Layer.search(histogram, adc, self.request.crossbar))
        return calibrate(layers, self.request.calibration, None if self.data.tuning_y is None else self._loss)

    def _loss(self, choices: list[Choice]) -> float:
        """Return the accuracy that converters lose on tuning data, sample by sample against integers, plus a standard error."""
        x, y = cast("tuple[Tensor, Tensor]", (self.data.tuning_x, self.data.tuning_y))
        lost = self._integers_right - _right(self._run(choices, x), y)
        return float(lost.mean() + lost.std(correction=0) / lost.numel() ** 0.5)

    @cached_property
    def _integers_right(self) -> Tensor:
        x, y = cast("tuple[Tensor, Tensor]", (self.data.tuning_x, self.data.tuning_y))
        return _right(self.model.run(x, "integer", self.quiet), y)

    def _measured_errors(self, choices: list[Choice]) -> list[float]:
        """Run calibration samples through what was chosen: the prediction takes errors as independent."""
        self.model.set_adcs([choice.adcs for choice in choices], self.request.adc.zero_skip)
        self._run_measured()
        return [layer.error_power / layer.power if layer.power else 0.0 for layer in self.model.layers]

    def _run_measured(self) -> None:
        self.model.session.measure = True
        self.model.run(self.data.calibration_x[: self.request.calibration.samples], "crossbar", self.quiet)
        self.model.session.measure = False

    def _run(self, choices: list[Choice], x: Tensor, histogram: bool = False) -> Tensor:
        self.model.set_adcs([choice.adcs for choice in choices], self.request.adc.zero_skip, histogram)
        return self.model.run(x, "crossbar", self.quiet)


def _accuracy(logits: Tensor, y: Tensor | None) -> float | None:
    """Return the share of samples, or of whatever has a label, whose largest output is the label."""
    return None if y is None else float(_right(logits, y).mean())


def _right(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(-1) == y).double()


def _counted(choice: Choice, layer: MappedLayer) -> Choice:
    """Replace expected shares by counted ones; errors stay as predicted."""
    tally, skips = layer.tally, choice.skipped > 0
    if tally.histogram_CIY is not None:
        counted = Layer(layer.histogram(), [[adc] for adc in choice.adcs], skips).cheapest(0)
        settings = zip(choice.settings, counted.settings, strict=True)
        return Choice(tuple(replace(new, error=old.error) for old, new in settings))
    (setting,) = choice.settings
    lines, skipped = tally.bit_lines, tally.idle if skips else 0
    operations = setting.adc.coarse_steps * tally.coarse + setting.adc.fine_steps * (lines - skipped - tally.coarse)
    steps, coarse, clipped, skipped_share = (count / lines for count in (operations, tally.coarse, tally.clipped, skipped))
    return Choice((Setting(setting.adc, steps, coarse, clipped, skipped_share, setting.error),))

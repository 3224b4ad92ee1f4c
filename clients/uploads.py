"""What a client uploads once instead of joining rounds: a generative model of its data, label counts, and what filters need.

One ArrayRecord holds all arrays, told apart by the first part of their names: `generator/...`, `classifier/...`, `template`.
Under `[privacy]` nothing leaves that is not a noisy release, and every release is in the client's ledger.

Shapes: N = samples, C, H, W = channels, height, width, K = classes, F = features of a spectrum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from torch import Tensor, nn

from ..core.records import WEIGHT_KEY, array_record, tensors
from ..core.seeds import seed_globals, torch_stream
from . import fourier
from .spending import Spending
from .tasks import classification

if TYPE_CHECKING:
    from ..server.spec import Experiment

UPLOAD = "upload"  # the record that describes the arrays


@dataclass(frozen=True)
class Upload:
    """One client's upload as the server reads it.

    Attributes
    ----------
    counts_K : Tensor of float32
        Training samples of each class; noisy under privacy.
    count_noise : float
        Standard deviation of that noise, 0 without privacy.
    generator : dict
        Weights of the generative model.
    classifier : dict
        Weights of the client's classifier; empty unless the strategy asked for one.
    template_KF : Tensor, optional
        Mean Fourier magnitudes of each class.
    """

    client: int
    counts_K: Tensor
    count_noise: float
    generator: dict[str, Tensor]
    classifier: dict[str, Tensor]
    template_KF: Tensor | None

    @classmethod
    def of(cls, content: RecordDict) -> Upload:
        """Read a reply whose layout has been checked."""
        about, arrays = content.config_records[UPLOAD], tensors(next(iter(content.array_records.values())))
        return cls(
            client=int(about["client"]),  # type: ignore[arg-type]
            counts_K=torch.tensor(about["counts"]),
            count_noise=float(about["count_noise"]),  # type: ignore[arg-type]
            generator=_part("generator", arrays),
            classifier=_part("classifier", arrays),
            template_KF=arrays.get("template"),
        )

    def present(self, least: float) -> list[int]:
        """Return the classes the client can be asked for: at least one sample and, where counts are noisy, clearly so."""
        threshold = max(least, 4 * self.count_noise) if self.count_noise else 0.5
        return torch.nonzero(self.counts_K >= threshold).flatten().tolist()


def make(
    spec: Experiment, client: int, x_NCHW: Tensor, y_N: Tensor, classes: int, model: nn.Module, state: RecordDict
) -> RecordDict:
    """Train a generative model on one client's data and say all that the strategy asks for.

    Parameters
    ----------
    model : Module
        A classifier at its initial weights; trained and uploaded too if candidates are chosen by agreement.
    state : RecordDict
        The client's state; its privacy ledger is kept there.
    """
    strategy, seed = spec.strategy, spec.seed
    generator, selection = strategy.generator, strategy.selection  # type: ignore[attr-defined]
    template, agreement = selection.method == "fmf", selection.method == "agreement"
    trainings = [(generator.batch_size, generator.steps)]
    if agreement:
        trainings.append((spec.train.batch_size, classification.private_steps(len(y_N), spec.train)))
    spending = Spending(spec, client, len(y_N), state, trainings, template)
    counts_K = spending.counts(y_N, classes)
    private = spending.training(*trainings[0], "generator")
    fitted = generator.fit(client, x_NCHW, y_N, classes, seed, private)
    arrays = {f"generator/{key}": value for key, value in fitted.weights.items()}
    if agreement:
        path = ("classifier", client)
        seed_globals(seed, *path)
        private = spending.training(*trainings[1], "classifier")
        classification.fit(model, x_NCHW, y_N, spec.train, torch_stream(seed, *path), private)
        arrays |= {f"classifier/{key}": value for key, value in model.state_dict().items()}
    if template:
        sums_KF = spending.template(x_NCHW, y_N, classes, selection.bins)
        arrays["template"] = fourier.means(sums_KF, counts_K)
    about: dict[str, Any] = {"client": client, "counts": counts_K.tolist(), "count_noise": spending.count_noise}
    metrics = {WEIGHT_KEY: max(1.0, float(counts_K.sum()))} | ({} if fitted.loss is None else {"train_loss": fitted.loss})
    content = RecordDict({"arrays": array_record(arrays), "metrics": MetricRecord(metrics), UPLOAD: ConfigRecord(about)})
    return spending.close(content)


def _part(name: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}

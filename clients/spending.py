"""One client's side of `[privacy]`: what it may release, how noisily, and the ledger of what it has released.

The promise is (epsilon, delta) for one record more or less in one client's data. Clients hold disjoint records, so the
federation's figure is the largest of its clients', never their sum; all that one client releases is composed.

How many records a client has is taken as public here: sampling rates, and with them the noise, are derived from it.
Evaluation stands outside the promise: accuracies are the experimenter's, not something a deployed client would send.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from ..core.errors import PrivacyError
from ..core.seeds import torch_stream
from . import fourier
from .privacy import Ledger, Noise, PrivacyOptions, Private, Release, check_records, noisy_counts, plan
from .tasks.classification import private_steps
from .worker import PRIVACY

if TYPE_CHECKING:
    from ..server.spec import Experiment


class Spending:
    """What one client releases in answer to one message; without `[privacy]`, everything goes out as it is.

    Parameters
    ----------
    spec : Experiment
        Its `[privacy]` is the promise.
    client : int
        Names the client's random streams.
    records : int
        Training samples of the client.
    state : RecordDict
        The client's state, with the ledger of what it has released before.
    trainings : sequence of (int, int)
        Expected batch size and steps of everything that is trained in answer to a message of this kind.
    template : bool
        A Fourier template is released too.

    Raises
    ------
    SpecError
        If the promise makes no sense for this client.
    PrivacyError
        If it has taken part as often as the promise allows.
    """

    def __init__(
        self,
        spec: Experiment,
        client: int,
        records: int,
        state: RecordDict,
        trainings: Sequence[tuple[int, int]],
        template: bool = False,
    ) -> None:
        self.options: PrivacyOptions | None = spec.privacy
        self.seed, self.client, self.records, self.state = spec.seed, client, records, state
        self.trainings = trainings
        if self.options is None:
            return
        self.ledger = Ledger(self.options.delta)
        if PRIVACY in state:
            self.ledger = Ledger.from_record(state.config_records[PRIVACY], self.options.delta)
        times = self.options.participations or spec.federation.rounds
        for batch_size, _ in trainings:
            check_records(self.options, records, batch_size, client)
        spans = tuple((batch_size / records, steps * times) for batch_size, steps in trainings)
        self.noise: Noise = plan(self.options, spans, template)
        self.turn = sum(r.steps for r in self.ledger.releases if r.kind == "training") // sum(steps for _, steps in trainings)
        if self.turn >= times:
            raise PrivacyError(
                f"privacy.participations = {times}: client {client} has taken part as often and may release nothing more"
            )

    @property
    def count_noise(self) -> float:
        """Standard deviation of the noise in a released count; 0 without privacy."""
        return 0.0 if self.options is None else self.noise.histogram

    def training(self, batch_size: int, steps: int, what: str) -> Private | None:
        """Enter a training into the ledger and return how it is to be done; None: as without privacy."""
        if self.options is None:
            return None
        self.ledger.add(Release("training", self.noise.training, batch_size / self.records, steps))
        return Private(self.noise.training, self.options.max_grad_norm, self._stream(what, self.turn))

    def counts(self, y_N: Tensor, classes: int) -> Tensor:
        """Return the samples of each class, float32, shape (K,)."""
        counts_K = torch.bincount(y_N, minlength=classes).float()
        return counts_K if self.options is None else self._noisy("histogram", counts_K)

    def count(self) -> float:
        """Return the number of samples; released once, at the first call of the first message."""
        if self.options is None:
            return self.records
        told = self.state.config_records.get("told")
        if told is None:
            released = self._noisy("histogram", torch.tensor([float(self.records)])).item()
            told = self.state["told"] = ConfigRecord({"records": max(1.0, released)})
        return float(told["records"])  # type: ignore[arg-type]

    def template(self, x_NCHW: Tensor, y_N: Tensor, classes: int, bins: Literal["full", "radial"]) -> Tensor:
        """Return the sums of Fourier magnitudes of each class, shape (K, F)."""
        if self.options is None or self.noise.template is None:
            return fourier.template_sum(x_NCHW, y_N, classes, bins)
        self.ledger.add(Release("template", self.noise.template))
        return fourier.private_template(x_NCHW, y_N, classes, bins, self.noise.template, self._stream("template"))

    def close(self, content: RecordDict) -> RecordDict:
        """Write the ledger into the client's state, and what is spent into the reply."""
        if self.options is not None:
            self.state[PRIVACY] = self.ledger.to_record()
            releases = json.dumps([asdict(release) for release in self.ledger.releases])
            content[PRIVACY] = ConfigRecord({"epsilon": self.ledger.epsilon(), "releases": releases})
        return content

    def _noisy(self, kind: Literal["histogram"], counts: Tensor) -> Tensor:
        self.ledger.add(Release(kind, self.noise.histogram))
        return noisy_counts(counts, self.noise.histogram, self._stream(kind))

    def _stream(self, *path: str | int) -> torch.Generator:
        return torch_stream(self.seed, "privacy", *path, self.client)


def classifier_training(spec: Experiment, client: int, records: int, state: RecordDict) -> Spending:
    """Open the account of a client that trains a classifier, in every round it is sampled for."""
    return Spending(spec, client, records, state, [(spec.train.batch_size, private_steps(records, spec.train))])

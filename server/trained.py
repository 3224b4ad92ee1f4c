"""Models with weights, and samples to run them on, by name: trained here and now, or read from a checkpoint."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..clients.data import DataOptions
from ..clients.data.federated import FederatedData, federate
from ..clients.models import MODELS, initialise
from ..clients.tasks.classification import TrainOptions, train
from ..core.errors import SpecError
from ..core.options import choose
from ..core.seeds import derive
from ..hwsim.reram.functional import Samples
from ..hwsim.reram.layers import layers
from ..hwsim.reram.request import LayerShape, PreparationOptions, ReramRequest
from ..hwsim.roofline.simulator import ModelRequest
from ..hwsim.simulator import HwsimError, Job
from .architectures import example

SHAPES = {"digits": (1, 8, 8), "fashion-mnist": (1, 28, 28), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
"""Images of the sources that need nothing but their name."""
CALIBRATION, TUNING, TEST = 128, 1500, 2000  # most samples
HELD_OUT = 0.2  # of all samples: for calibration and tuning, and as many for testing
SPLIT_SEED = 0
KEPT = 4  # models of former requests
LOOK_S = 0.05  # how often who waits looks whether to go on waiting
_TRAINING = TrainOptions(optimizer="adam", lr=2e-3, batch_size=64)


@dataclass
class Trained:
    """Prepares the models that clients can train on the data sets that are here.

    Attributes
    ----------
    checkpoints : Path, optional
        Folder whose safetensors files requests may name; without it, none.
    """

    checkpoints: Path | None = None
    _kept: dict[tuple[str, str, PreparationOptions], nn.Module] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def models(self) -> Sequence[str]:
        """Every architecture of clients."""
        return MODELS.names()

    @property
    def data(self) -> Sequence[str]:
        """Data sets that may be here."""
        return list(SHAPES)

    def __call__(self, request: ReramRequest, job: Job) -> tuple[nn.Module, Samples]:
        """Return a model, and samples of which none has two uses."""
        for name, known in (("model", self.models), ("data", self.data)):
            value = getattr(request, name)
            if value not in known:
                raise HwsimError(f"{name} = {value!r}: {choose(value, known)}", "NOT_FOUND", name)
        data = _data(request.data)
        held_out_x, held_out_y = data.validation(0)
        tuning = slice(CALIBRATION, CALIBRATION + TUNING)
        test_x, test_y = (part[:TEST] for part in data.test(0))
        samples = Samples(held_out_x[:CALIBRATION], held_out_x[tuning], held_out_y[tuning], test_x, test_y)
        return self._model(request, data, job), samples

    def _model(self, request: ReramRequest, data: FederatedData, job: Job) -> nn.Module:
        if request.preparation.checkpoint:
            model = _initialised(request, data)
            _load(model, self._checkpoint(request.preparation.checkpoint), request)
            return model.eval()
        key = request.model, request.data, request.preparation
        with self._alone(job):
            if key not in self._kept:
                model = _initialised(request, data)
                _train(model, *data.train(0), request.preparation, job)
                self._kept[key] = model.eval()
                for old in list(self._kept)[:-KEPT]:
                    del self._kept[old]
            return self._kept[key]

    @contextmanager
    def _alone(self, job: Job) -> Iterator[None]:
        """Let one request train at a time: dropout draws from the process's generator, and equal requests train once."""
        while not self._lock.acquire(timeout=LOOK_S):
            job.step()
        try:
            yield
        finally:
            self._lock.release()

    def _checkpoint(self, name: str) -> Path:
        """Return a file of the folder; callers from elsewhere must not reach any other."""
        there = [] if self.checkpoints is None else sorted(path.name for path in self.checkpoints.glob("*.safetensors"))
        if self.checkpoints is None or name not in there:
            known = choose(name, there) if there else "there are none here"
            raise HwsimError(f"preparation.checkpoint = {name!r}: {known}", "NOT_FOUND", "preparation.checkpoint")
        return self.checkpoints / name


def layers_of(name: str, data: str) -> list[LayerShape]:
    """Return the layers of an architecture for a data set's images; no weights are made, no data read.

    Raises
    ------
    HwsimError
        NOT_FOUND for unknown names.
    """
    if data not in SHAPES:
        raise HwsimError(f"data = {data!r}: {choose(data, SHAPES)}", "NOT_FOUND", "data")
    channels, height, width = SHAPES[data]
    built = example(ModelRequest(name=name, channels=channels, height=height, width=width))
    return layers(built.model.eval(), built.inputs, 1)


def _data(name: str) -> FederatedData:
    options = DataOptions.model_validate({"source": name, "validation_fraction": HELD_OUT, "test_fraction": HELD_OUT})
    try:
        return federate(options, 1, SPLIT_SEED)
    except SpecError as error:
        raise HwsimError(f"data = {name!r}: {error}", "FAILED_PRECONDITION", "data") from None


def _initialised(request: ReramRequest, data: FederatedData) -> nn.Module:
    try:
        return initialise(MODELS.parse({"name": request.model}), data.shape_CHW, data.classes, request.preparation.seed)
    except SpecError as error:
        raise HwsimError(f"model = {request.model!r}: cannot take {request.data}: {error}", field="model") from None


def _load(model: nn.Module, file: Path, request: ReramRequest) -> None:
    where = f"preparation.checkpoint = {file.name!r}"
    try:
        model.load_state_dict(safetensors.torch.load_file(file))
    except (OSError, safetensors.SafetensorError) as error:
        reason = f"cannot be read: {error}"
    except RuntimeError as error:
        reason = f"is not of {request.model} on {request.data}: {' '.join(str(error).split())[:300]}"
    else:
        return
    raise HwsimError(f"{where}: {reason}", "FAILED_PRECONDITION", "preparation.checkpoint")


def _train(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, preparation: PreparationOptions, job: Job) -> None:
    quiet = replace(job, progress=Job().progress)
    options = _TRAINING.model_copy(update={"epochs": math.ceil(preparation.trained_on / len(y_N))})
    asking = model.register_forward_pre_hook(lambda *_: quiet.step())
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive(preparation.seed, "dropout"))
        train(model, x_NCHW, y_N, options, torch.Generator().manual_seed(derive(preparation.seed, "order")))
    asking.remove()

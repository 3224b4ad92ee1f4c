"""The audit of a finished run: is its synthetic data what was asked for, does it look real, does it give records away?

The audit is the experimenter's, not the server's: it uses the clients' real data, and nothing of it flows back into training.
Its judge is a classifier trained on the real data. Realism is the Frechet distance (Heusel et al., arXiv:1706.08500) between
features of that judge, membership the test by loss (Yeom et al., arXiv:1709.01604) at one level of noise, as Carlini et al.
(arXiv:2301.13188) put it to diffusion models; what else is measured, and how, is ours.

Shapes: N, M = samples, B = batch, C, H, W = channels, height, width, K = classes, F = features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from ..clients.client_app import Workbench
from ..clients.data import DataOptions, FederatedData
from ..clients.models import initialise
from ..clients.state import write_atomically
from ..clients.tasks import classification
from ..clients.tasks.diffusion import DiffusionOptions, noise_schedule
from ..core.errors import RunError
from ..core.seeds import seed_globals, torch_stream
from ..strategies.generative import Pool, from_bytes
from .record import stored_spec
from .spec import Experiment

JUDGE_STEPS = 1000  # at least; `[train]` alone may be meant for many rounds
SUSPICIOUS = 0.5  # a synthetic image is that much nearer to a training image than to any test image
AT_ONCE = 256  # images whose distances to all others, or whose noisy forms, are held at a time
TOLD_APART = 100  # most records of a class, of each kind, that a membership test looks at
NOISE_LEVEL = 0.1  # share of the timesteps: of 0.05 to 0.6, where losses told most of membership on digits
NOISE_DRAWS = 8

Samples = tuple[Tensor, Tensor]
"""Images (N, C, H, W) in -1..1 and labels (N,)."""


def write_audit(folder: Path) -> dict[str, Any]:
    """Audit a run, write `audit.json` into its directory, and return what is in it."""
    figures = audit(folder)
    write_atomically(folder / "audit.json", json.dumps(figures, indent=1, allow_nan=False).encode())
    return figures


def audit(folder: Path) -> dict[str, Any]:
    """Judge the synthetic data of a finished run.

    Returns
    -------
    dict
        synthetic_images : how many there are.
        judge_accuracy : of the experiment's classifier, trained on all training data, on all test data.
        label_agreement : share of synthetic images in which the judge sees the requested label.
        feature_fid : Frechet distance between synthetic and test images; feature_fid_real : between training and test
        images. Both fall as the number of images grows.
        memorisation_ratio : median over synthetic images of the distance to the nearest training image of their client
        over that to the nearest test image of any client; memorisation_share : share of images with a ratio below 0.5.
        membership_auc : how well a diffusion model's loss tells its client's training records from test records of the
        same classes, mean over clients: 0.5 is not at all, 1 is always; None for other generators.
        clients : the same figures of every client, and label_agreement_by_class, None for a class without images.

    Raises
    ------
    RunError
        If the run has left no synthetic data, or it is damaged.
    """
    spec = stored_spec(folder)
    made = _read(folder, "synthetic.safetensors")
    pool = Pool(made["images"], made["labels"], made["clients"])
    data = Workbench(spec).data
    train, test = _pooled(data.train, data.num_clients), _pooled(data.test, data.num_clients)
    judge = Judge(spec, data, train)
    x_NCHW = from_bytes(pool.images_NCHW)
    log_p_NK, features_NF = judge.see(x_NCHW)
    test_log_p_NK, test_features_MF = judge.see(test[0])
    agrees_N = (log_p_NK.argmax(1) == pool.labels_N).float()
    ratio_N = memorisation(x_NCHW, pool.clients_N, data, test[0])
    auc = membership(folder, spec, data, test)
    clients = []
    for client in pool.clients_N.unique().tolist():
        figures = _of_client(pool.clients_N == client, pool, agrees_N, ratio_N, data.classes)
        clients.append({"client": client, **figures, "membership_auc": auc.get(client)})
    return {
        "synthetic_images": len(x_NCHW),
        "judge_accuracy": classification.score(test_log_p_NK, test[1])["accuracy"],
        "label_agreement": agrees_N.mean().item(),
        "feature_fid": frechet_distance(test_features_MF, features_NF),
        "feature_fid_real": frechet_distance(test_features_MF, judge.see(train[0])[1]),
        **_memorised(ratio_N),
        "membership_auc": sum(auc.values()) / len(auc) if auc else None,
        "clients": clients,
    }


class Judge:
    """The experiment's classifier, trained as `[train]` says, for 1000 steps at least, on the training data of all clients."""

    def __init__(self, spec: Experiment, data: FederatedData, train: Samples) -> None:
        steps_an_epoch = math.ceil(len(train[1]) / spec.train.batch_size)
        epochs = max(spec.train.epochs, math.ceil(JUDGE_STEPS / steps_an_epoch))
        self._options = spec.train.model_copy(update={"epochs": epochs})
        self._model = initialise(spec.model_options(), data.shape_CHW, data.classes, spec.seed)
        seed_globals(spec.seed, "audit")
        classification.train(self._model, *train, self._options, torch_stream(spec.seed, "audit"))

    def see(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithm of the probability of every class (N, K), and the features that the head sees (N, F)."""
        seen: list[Tensor] = []
        hook = self._model.get_submodule("head").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float()))
        log_p_NK = classification.predict(self._model, x_NCHW, self._options)
        hook.remove()
        return log_p_NK, torch.cat(seen)


class _Given(nn.Identity):
    """Features that are there already, as torchmetrics wants to be given a feature extractor."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def frechet_distance(real_MF: Tensor, made_NF: Tensor) -> float:
    """Return the Frechet distance between Gaussians fitted to two sets of features."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    fid = FrechetInceptionDistance(_Given(real_MF.shape[1]))
    fid.update(real_MF.double(), real=True)
    fid.update(made_NF.double(), real=False)
    return fid.compute().item()


def memorisation(x_NCHW: Tensor, clients_N: Tensor, data: FederatedData, test_MCHW: Tensor) -> Tensor:
    """Return how far each image is from the nearest training image of its client over how far from the nearest test image.

    Around 1 where training images are nothing special to the generator, 0 for a copy. A client with few training images
    has larger ratios, for the nearest of few is farther away.

    Parameters
    ----------
    clients_N : Tensor of int64
        Whose generator made an image.
    test_MCHW : Tensor
        Test images of all clients.

    Returns
    -------
    Tensor, shape (N,)
        1 where both distances are 0.
    """
    ratio_N = torch.empty(len(x_NCHW))
    for client in clients_N.unique().tolist():
        mine = clients_N == client
        ratio_N[mine] = nearest(x_NCHW[mine], data.train(client)[0]) / nearest(x_NCHW[mine], test_MCHW)
    return ratio_N.nan_to_num(nan=1.0)


def nearest(x_NCHW: Tensor, others_MCHW: Tensor) -> Tensor:
    """Return the L2 distance of each image to the nearest of others, shape (N,)."""
    others_MF = others_MCHW.flatten(1)
    distances = []
    for x_BF in x_NCHW.flatten(1).split(AT_ONCE):
        found_B = torch.cdist(x_BF, others_MF).argmin(1)  # by matrix products: right order, but copies seem a little apart
        distances.append((x_BF - others_MF[found_B]).norm(dim=1))
    return torch.cat(distances)


def membership(folder: Path, spec: Experiment, data: FederatedData, test: Samples) -> dict[int, float]:
    """Return by client how well its uploaded diffusion model's losses tell training records from others.

    Others are test records, as many of each class as there are training records. They are those of all clients, unless a
    class looks different at other clients: then the client's own, or the test would tell clients apart.

    Returns
    -------
    dict
        Areas under the ROC curve. Empty where generators are no diffusion models; without clients that have no test record
        of their classes to compare with.

    Raises
    ------
    RunError
        If the run has kept no generators.
    """
    options = getattr(spec.strategy, "generator", None)
    if not isinstance(options, DiffusionOptions):
        return {}
    uploads: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _read(folder, "uploads.safetensors").items():
        number, _, key = name.partition("/")
        uploads.setdefault(int(number), {})[key] = tensor
    assert isinstance(spec.data, DataOptions)
    differs = spec.data.transform == "domains" or spec.data.partition == "natural"
    auc = {}
    for client, weights in sorted(uploads.items()):
        members, others = matched(data.train(client), data.test(client) if differs else test, spec.seed)
        if len(members[1]):
            losses = [denoising_losses(options, client, weights, *x, data.classes, spec.seed) for x in (members, others)]
            is_member = torch.arange(2 * len(members[1])) < len(members[1])
            auc[client] = float(roc_auc_score(is_member, -torch.cat(losses)))
    return auc


def matched(some: Samples, others: Samples, seed: int) -> tuple[Samples, Samples]:
    """Draw equally many samples of each class from both, at most 100: classes differ in how hard they are to generate."""
    order, rows, other_rows = torch_stream(seed, "audit", "matched"), [], []
    for label in some[1].unique():
        found, other = (torch.nonzero(y_N == label).flatten() for y_N in (some[1], others[1]))
        count = min(len(found), len(other), TOLD_APART)
        rows.append(found[torch.randperm(len(found), generator=order)[:count]])
        other_rows.append(other[torch.randperm(len(other), generator=order)[:count]])
    (x_NCHW, y_N), (x_MCHW, y_M), mine, theirs = some, others, torch.cat(rows), torch.cat(other_rows)
    return (x_NCHW[mine], y_N[mine]), (x_MCHW[theirs], y_M[theirs])


@torch.inference_mode()
def denoising_losses(
    options: DiffusionOptions, client: int, weights: Mapping[str, Tensor], x_NCHW: Tensor, y_N: Tensor, classes: int, seed: int
) -> Tensor:
    """Return a diffusion model's loss on each sample, shape (N,), at one level of noise and with the same noise for all.

    Unlike the loss in training, whose level, noise and hidden labels vary from sample to sample and drown what differs.
    """
    channels, height, width = x_NCHW.shape[1:]
    unet, schedule = options.unet(client, weights, (channels, height, width), classes), noise_schedule(options)
    inner_NCHW = F.pixel_unshuffle(x_NCHW, options.unshuffle)
    noise_DCHW = torch.randn((NOISE_DRAWS, *inner_NCHW.shape[1:]), generator=torch_stream(seed, "audit", "noise"))
    losses = []
    for x_BCHW, y_B in zip(inner_NCHW.split(AT_ONCE), y_N.split(AT_ONCE), strict=True):
        t_B: Any = torch.full_like(y_B, int(NOISE_LEVEL * options.timesteps))  # diffusers' annotations ask for int32
        total_B = torch.zeros(len(y_B))
        for noise_CHW in noise_DCHW:
            noise_BCHW = noise_CHW.expand_as(x_BCHW)
            target_BCHW = schedule.get_velocity(x_BCHW, noise_BCHW, t_B) if options.prediction == "v" else noise_BCHW
            (predicted_BCHW,) = unet(schedule.add_noise(x_BCHW, noise_BCHW, t_B), t_B, y_B, return_dict=False)
            total_B += (predicted_BCHW - target_BCHW).square().flatten(1).mean(1)
        losses.append(total_B / NOISE_DRAWS)
    return torch.cat(losses)


def _of_client(mine_N: Tensor, pool: Pool, agrees_N: Tensor, ratio_N: Tensor, classes: int) -> dict[str, Any]:
    labels, agrees = pool.labels_N[mine_N], agrees_N[mine_N]
    hits_K, images_K = (torch.bincount(labels, weights, minlength=classes).tolist() for weights in (agrees, None))
    return {
        "synthetic_images": len(labels),
        "label_agreement": agrees.mean().item(),
        "label_agreement_by_class": [hits / images if images else None for hits, images in zip(hits_K, images_K, strict=True)],
        **_memorised(ratio_N[mine_N]),
    }


def _memorised(ratio_N: Tensor) -> dict[str, float]:
    share = (ratio_N < SUSPICIOUS).float().mean().item()
    return {"memorisation_ratio": ratio_N.median().item(), "memorisation_share": share}


def _pooled(part: Callable[[int], Samples], clients: int) -> Samples:
    """Return the samples of all clients, in the order of clients."""
    parts = [part(client) for client in range(clients)]
    return torch.cat([x_NCHW for x_NCHW, _ in parts]), torch.cat([y_N for _, y_N in parts])


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    """Read one of the run's files of tensors.

    Raises
    ------
    RunError
        If it is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(folder / name)
    except FileNotFoundError:
        message = (
            "missing; only a run whose server has sampled generators (such as feddiff, fedcvae) can be audited, once it ends"
        )
    except safetensors.SafetensorError as error:
        message = f"damaged ({error}); run the experiment again"
    raise RunError(f"{folder / name}: {message}")

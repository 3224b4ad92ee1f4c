"""A conditional variational autoencoder of one client's images, of which only the decoder is uploaded.

Sources: Kingma and Welling, arXiv:1312.6114 (the bound, eq. 10; the encoder's Gaussian, eq. 9); Sohn, Lee and Yan, NeurIPS 2015
(conditioning); Higgins et al., ICLR 2017 (beta). Uploading the decoder and sampling it with truncated latents is FedCVAE:
Heinbaugh, Luz-Ricca and Shao, ICLR 2023. Ours: the architecture, without batch normalisation, which DP-SGD rules out and whose
running means would tell of the data; no client shifts the centre of its prior, the paper's measure against eavesdroppers.

Pixels in -1..1 become 0..1 and count as means of Bernoulli variables. That keeps what is decoded in range and has no variance
to choose as a Gaussian has. The default beta is the authors', for 28 x 28 images. Few pixels weigh little against the
divergence: on 8 x 8 digits (5 clients, 1000 steps) beta = 1 leaves 13 % of the variance within a class, and a classifier
trained on the samples gets 75 % of real digits right; beta = 0.3 leaves 39 % and gets 90 %.

Shapes: N = samples, C, H, W = channels, height, width, K = classes, Z = latent width, F = feature maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice, repeat
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.records import Layout
from ...core.seeds import derive, torch_stream
from ..privacy import DpSgd, Private, poisson_batches
from ..work import observe
from .generator import Fitted, GeneratorOptions, Sampler

Shape = tuple[int, int, int]
"""Channels, height, width of one image, or of its features."""


class CvaeOptions(GeneratorOptions):
    """What `[strategy.generator]` accepts for a conditional variational autoencoder."""

    latent: Annotated[int, Field(ge=1)] = 10
    """Width of the latent vector."""
    channels: Annotated[int, Field(ge=1)] = 16
    """Feature maps at half an image's sides, in encoder and decoder; at a quarter of them there are twice as many."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the divergence from the prior in the loss."""
    steps: Annotated[int, Field(ge=1)] = 1000
    """Optimizer steps."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Samples a step; under privacy, expected samples."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of Adam."""
    truncation: Annotated[float, Field(gt=0)] = 3.0
    """The server draws latents from the standard normal distribution within plus and minus this."""

    def layout(self, client: int, shape_CHW: Shape, classes: int) -> Layout:
        """Return names, dtypes and shapes of the uploaded decoder, the same for all clients."""
        with torch.device("meta"):  # counts and names need no numbers
            decoder = Decoder(self, shape_CHW, classes)
        return {key: ("float32", tuple(tensor.shape)) for key, tensor in decoder.state_dict().items()}

    def fit(self, client: int, x_NCHW: Tensor, y_N: Tensor, classes: int, seed: int, private: Private | None = None) -> Fitted:
        """Train from weights that all clients start from, which also keeps their latent spaces alike, and return the decoder.

        The loss is the mean negative bound in nats a sample, each at the weights it was trained with.
        """
        channels, height, width = x_NCHW.shape[1:]
        model = initial(self, (channels, height, width), classes, seed)
        order, draws = (torch_stream(seed, "generator", client, name) for name in ("order", "draws"))
        loss = None
        _observe(model, x_NCHW, y_N, self, private)
        if private is None:
            loss = _train(model, x_NCHW, y_N, self, order, draws)
        else:
            _train_private(model, x_NCHW, y_N, self, order, draws, private)
        return Fitted(dict(model.decoder.state_dict()), loss, self.steps)

    def sampler(self, client: int, weights: Mapping[str, Tensor], shape_CHW: Shape, classes: int) -> Sampler:
        """Make what turns labels into images from an uploaded decoder."""
        decoder = self.decoder(weights, shape_CHW, classes)
        return lambda labels_N, generator: decoder.images(self.latents(len(labels_N), generator), labels_N)

    def decoder(self, weights: Mapping[str, Tensor], shape_CHW: Shape, classes: int) -> Decoder:
        """Rebuild an uploaded decoder, in single precision whatever it was uploaded in."""
        decoder = Decoder(self, shape_CHW, classes)
        decoder.load_state_dict(weights)
        return decoder

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw from the truncated prior, shape (count, Z)."""
        return nn.init.trunc_normal_(
            torch.empty(count, self.latent), a=-self.truncation, b=self.truncation, generator=generator
        )


class Encoder(nn.Module):
    """Images and labels to the mean and logarithm of the variance of their latents, side by side."""

    def __init__(self, options: CvaeOptions, shape_CHW: Shape, classes: int) -> None:
        super().__init__()
        self.classes = classes
        quarter_FHW = _quarter(options, shape_CHW)
        self.conv1 = nn.Conv2d(shape_CHW[0], options.channels, kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(options.channels, quarter_FHW[0], kernel_size=3, stride=2, padding=1)
        self.out = nn.Linear(math.prod(quarter_FHW) + classes, 2 * options.latent)

    def forward(self, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
        """Return shape (N, 2 Z)."""
        x_NFHW = F.relu(self.conv2(F.relu(self.conv1(x_NCHW))))
        return self.out(torch.cat([x_NFHW.flatten(1), F.one_hot(y_N, self.classes)], dim=1))


class Decoder(nn.Module):
    """Latents and labels to images, which grow to twice their sides twice and lose what is too much of them."""

    def __init__(self, options: CvaeOptions, shape_CHW: Shape, classes: int) -> None:
        super().__init__()
        self.shape_CHW, self.classes = shape_CHW, classes
        self.quarter_FHW = _quarter(options, shape_CHW)
        self.hidden = nn.Linear(options.latent + classes, math.prod(self.quarter_FHW))
        self.conv = nn.Conv2d(self.quarter_FHW[0], options.channels, kernel_size=3, padding=1)
        self.out = nn.Conv2d(options.channels, 4 * shape_CHW[0], kernel_size=3, padding=1)

    def forward(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        """Return the logits of pixels in 0..1, shape (N, C, H, W)."""
        x_NF = F.relu(self.hidden(torch.cat([z_NZ, F.one_hot(y_N, self.classes)], dim=1)))
        x_NFHW = F.interpolate(x_NF.unflatten(1, self.quarter_FHW), scale_factor=2)
        x_NCHW = F.pixel_shuffle(self.out(F.relu(self.conv(x_NFHW))), 2)
        return x_NCHW[..., : self.shape_CHW[1], : self.shape_CHW[2]]

    @torch.no_grad()
    def images(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        """Return images in -1..1, shape (N, C, H, W)."""
        return self(z_NZ, y_N).sigmoid().mul(2).sub(1)


def _quarter(options: CvaeOptions, shape_CHW: Shape) -> Shape:
    """Return the shape of an image's features at a quarter of its sides, rounded up."""
    return 2 * options.channels, -(-shape_CHW[1] // 4), -(-shape_CHW[2] // 4)


class Cvae(nn.Module):
    """Encoder, decoder, and the loss that trains both."""

    def __init__(self, options: CvaeOptions, shape_CHW: Shape, classes: int) -> None:
        super().__init__()
        self.latent, self.beta = options.latent, options.beta
        self.encoder = Encoder(options, shape_CHW, classes)
        self.decoder = Decoder(options, shape_CHW, classes)

    def forward(self, x_NCHW: Tensor, y_N: Tensor, draws: torch.Generator) -> Tensor:
        """Return the negative of the evidence's lower bound of each sample, in nats, shape (N,), at one draw of its latent."""
        mean_NZ, log_variance_NZ = self.encoder(x_NCHW, y_N).chunk(2, dim=1)
        noise_NZ = torch.randn(mean_NZ.shape, generator=draws)
        z_NZ = mean_NZ + log_variance_NZ.div(2).exp() * noise_NZ
        divergence_N = (mean_NZ.square() + log_variance_NZ.exp() - 1 - log_variance_NZ).sum(1) / 2
        return reconstruction(self.decoder(z_NZ, y_N), x_NCHW) + self.beta * divergence_N


def reconstruction(logits_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    """Return the cross-entropy of images in -1..1 against what was decoded, in nats, summed over pixels, shape (N,)."""
    loss_NCHW = F.binary_cross_entropy_with_logits(logits_NCHW, (x_NCHW + 1) / 2, reduction="none")
    return loss_NCHW.flatten(1).sum(1)


def initial(options: CvaeOptions, shape_CHW: Shape, classes: int, seed: int) -> Cvae:
    """Build an autoencoder whose weights depend on nothing but the arguments; process-wide generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive(seed, "generator"))
        return Cvae(options, shape_CHW, classes)


def _observe(model: Cvae, x_NCHW: Tensor, y_N: Tensor, options: CvaeOptions, private: Private | None) -> None:
    """Tell those who price it what `fit` is about to do."""
    batch_size = min(options.batch_size, len(y_N))
    x_BCHW, y_B = x_NCHW[:batch_size], y_N[:batch_size]

    def steps(copy: nn.Module, count: int) -> None:
        few, quiet = options.model_copy(update={"steps": count, "batch_size": batch_size}), torch.Generator()
        if private is None:
            _train(copy, x_BCHW, y_B, few, quiet, quiet)  # type: ignore[arg-type]
        else:
            _train_private(copy, x_BCHW, y_B, few, quiet, quiet, private.rehearsal())  # type: ignore[arg-type]

    settings = (tuple(x_NCHW.shape[1:]), options.model_copy(update={"steps": 1}))
    observe(model, steps, options.steps, batch_size, settings, "adam", per_sample=private is not None)


def batches(num_records: int, batch_size: int, steps: int, order: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of every step's samples: pass after pass in random order, the last, smaller batch of each kept."""
    passes = (torch.randperm(num_records, generator=order).split(batch_size) for _ in repeat(None))
    return islice(chain.from_iterable(passes), steps)


def _train(
    model: Cvae, x_NCHW: Tensor, y_N: Tensor, options: CvaeOptions, order: torch.Generator, draws: torch.Generator
) -> float:
    """Train in place; return the mean loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, fused=True)
    total, samples = torch.zeros(()), 0
    for batch in batches(len(y_N), options.batch_size, options.steps, order):
        optimizer.zero_grad()
        loss_N = model(x_NCHW[batch], y_N[batch], draws)
        loss_N.mean().backward()
        optimizer.step()
        total += loss_N.detach().sum()
        samples += len(batch)
    return total.item() / samples


def _train_private(
    model: Cvae,
    x_NCHW: Tensor,
    y_N: Tensor,
    options: CvaeOptions,
    order: torch.Generator,
    draws: torch.Generator,
    private: Private,
) -> None:
    """Train in place by DP-SGD, in steps that sample every record with probability `options.batch_size` / N."""
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, fused=True)
    with DpSgd(model, optimizer, private.sigma, private.max_grad_norm, options.batch_size, private.noise) as dp:
        for batch in poisson_batches(len(y_N), options.batch_size / len(y_N), options.steps, order):
            dp.step(partial(_row_losses, x_NCHW=x_NCHW[batch], y_N=y_N[batch], draws=draws), len(batch))


def _row_losses(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, draws: torch.Generator) -> Tensor:
    return model(x_NCHW, y_N, draws)

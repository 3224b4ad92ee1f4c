"""A class-conditioned diffusion model of one client's images: a small U-Net, its training, its sampling.

Sources: Ho et al., arXiv:2006.11239 (noising, eq. 4; loss on the noise, eq. 14); Nichol and Dhariwal, arXiv:2102.09672 (cosine
schedule, eq. 17); Salimans and Ho, arXiv:2202.00512 (v-prediction, appendix D); Ho and Salimans, arXiv:2207.12598
(classifier-free guidance, algorithm 1 and eq. 6); Song et al., arXiv:2010.02502 (DDIM, eq. 12); Lu et al., arXiv:2211.01095
(DPM-Solver++, 2M); Dockhorn et al., arXiv:2210.09929 (several noise draws a record). U-Net, schedule and samplers are those of
diffusers. Ours: the tiers, feeding pixels unshuffled, how learning rate and average go, one draw of a record in every equal
stretch of the timesteps.

Sizes for 10 classes and one grey channel, and CPU time on one core of an AMD EPYC: a training step of 64 images, 1000 images
sampled in 10 steps; of 8x8 pixels, or of 28x28 unshuffled to 14x14.

    tier  widths       parameters   step, 8x8   14x14   1000 images, 8x8   14x14
    XS    8, 16            40 841       20 ms   43 ms              0.7 s   2.3 s
    S     16, 32          160 401       33 ms   82 ms              1.8 s   4.5 s
    M     32, 64          635 681       79 ms  220 ms              3.8 s    13 s
    L     32, 64, 64    1 114 209       96 ms       -              4.7 s       -   with attention at the lowest resolution

Shapes: N = samples, R = rows (samples x noise draws), C, H, W = channels, height, width, K = classes. Inside the U-Net images
are unshuffled by a factor f: C f^2, H / f, W / f.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import SpecError
from ...core.records import Layout
from ...core.seeds import derive, torch_stream
from ..privacy import DpSgd, Private, poisson_batches
from ..work import observe
from .generator import Fitted, GeneratorOptions, Sampler

if TYPE_CHECKING:  # importing diffusers takes seconds, which only those who train or sample should wait for
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

Tier = Literal["XS", "S", "M", "L"]
Shape = tuple[int, int, int]
"""Channels, height, width of one image."""
Losses = Callable[[Tensor, nn.Module], Tensor]
"""Indices of samples and a U-Net to one loss a row, the draws of one sample side by side."""


class DiffusionOptions(GeneratorOptions):
    """What `[strategy.generator]` accepts for a diffusion model."""

    tiers: Annotated[tuple[Tier, ...], Field(min_length=1)] = ("S",)
    """Sizes of U-Nets; client i trains the one at i modulo their number."""
    unshuffle: Annotated[int, Field(ge=1)] = 1
    """Squares of so many pixels a side become channels of one pixel; must divide both sides. Cheaper, and loses nothing."""
    prediction: Literal["v", "eps"] = "v"
    """What the U-Net predicts: velocity, or noise. Noise takes many more steps to learn."""
    timesteps: Annotated[int, Field(ge=2)] = 1000
    """Levels of noise; the schedule is the cosine one."""
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of training rows whose label is hidden; guidance needs some."""
    steps: Annotated[int, Field(ge=1)] = 400
    """Optimizer steps."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Samples a step; under privacy, expected samples."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Learning rate of Adam at its highest; it falls linearly to zero over the last 40 % of the steps."""
    lr_warmup: Annotated[int, Field(ge=0)] = 10
    """Steps over which the learning rate rises."""
    draws: Annotated[int, Field(ge=1)] = 1
    """Noise draws of every sample of a step; under privacy averaged before clipping."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """L2 norm to which the gradient of a step is clipped; under privacy see `privacy.max_grad_norm`."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the running mean of the weights, which is what is uploaded; at most 0.99 in fewer than 1000 steps."""
    solver: Literal["ddim", "dpm-solver"] = "ddim"
    """How images are sampled: DDIM, or DPM-Solver++ of second order."""
    sampling_steps: Annotated[int, Field(ge=1)] = 20
    """Evaluations of the U-Net for one image."""
    guidance: Annotated[float, Field(ge=0)] = 0.0
    """Weight w of (1 + w) conditional - w unconditional; 0 is plainly conditional, anything else costs twice as much."""

    @model_validator(mode="after")
    def _samples_what_was_trained(self) -> DiffusionOptions:
        if self.guidance and not self.label_dropout:
            raise ValueError(
                f"strategy.generator.guidance = {self.guidance}: a model that never trains without labels cannot be guided; "
                "choose 0, or a strategy.generator.label_dropout above 0"
            )
        most = self.timesteps if self.solver == "ddim" else self.timesteps // 2  # diffusers' would use some timesteps twice
        if self.sampling_steps > most:
            raise ValueError(
                f"strategy.generator.sampling_steps = {self.sampling_steps}: too many for {self.solver} with "
                f"strategy.generator.timesteps = {self.timesteps}; choose 1 to {most}"
            )
        return self

    def layout(self, client: int, shape_CHW: Shape, classes: int) -> Layout:
        """Return names, dtypes and shapes of the U-Net that a client uploads.

        Raises
        ------
        SpecError
            If the client's tier cannot take images of this shape.
        """
        return _layout(self, tier_of(self, client), shape_CHW, classes)

    def fit(self, client: int, x_NCHW: Tensor, y_N: Tensor, classes: int, seed: int, private: Private | None = None) -> Fitted:
        """Train the client's U-Net, from weights that all clients of its tier start from."""
        channels, height, width = x_NCHW.shape[1:]
        unet = initial(self, tier_of(self, client), (channels, height, width), classes, seed)
        order, draws = (torch_stream(seed, "generator", client, name) for name in ("order", "draws"))
        _observe(unet, x_NCHW, y_N, self, private)
        return train(unet, x_NCHW, y_N, self, order, draws, private)

    def sampler(self, client: int, weights: Mapping[str, Tensor], shape_CHW: Shape, classes: int) -> Sampler:
        """Make what turns labels into images from an uploaded U-Net."""
        unet = self.unet(client, weights, shape_CHW, classes)
        return lambda labels_N, generator: generate(unet, labels_N, self, generator)

    def unet(self, client: int, weights: Mapping[str, Tensor], shape_CHW: Shape, classes: int) -> UNet2DModel:
        """Rebuild an uploaded U-Net, in single precision whatever it was uploaded in."""
        with torch.device("meta"):  # the weights are about to be replaced
            unet = build(self, tier_of(self, client), shape_CHW, classes)
        unet.load_state_dict({key: value.to(torch.float32, copy=True) for key, value in weights.items()}, assign=True)
        return unet


@dataclass(frozen=True)
class _Size:
    """What a tier stands for: channels at each resolution, and in how many groups they are normalised."""

    widths: tuple[int, ...]
    norm_groups: int = 8
    attention: bool = False


_SIZES: dict[Tier, _Size] = {
    "XS": _Size((8, 16), norm_groups=4),
    "S": _Size((16, 32)),
    "M": _Size((32, 64)),
    "L": _Size((32, 64, 64), attention=True),
}


def tier_of(options: DiffusionOptions, client: int) -> Tier:
    """Return the tier that a client trains."""
    return options.tiers[client % len(options.tiers)]


def build(options: DiffusionOptions, tier: Tier, shape_CHW: Shape, classes: int) -> UNet2DModel:
    """Build a U-Net with one class more than there are, which stands for a hidden label.

    Raises
    ------
    SpecError
        If images of this shape cannot be unshuffled, or not be halved as often as the tier needs.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    (channels, height, width), size = inner_shape(options, tier, shape_CHW), _SIZES[tier]
    above = len(size.widths) - 1
    deepest = "Attn" if size.attention else ""
    return UNet2DModel(
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels,
        block_out_channels=size.widths,
        layers_per_block=1,
        norm_num_groups=size.norm_groups,
        down_block_types=(*["DownBlock2D"] * above, f"{deepest}DownBlock2D"),
        up_block_types=(f"{deepest}UpBlock2D", *["UpBlock2D"] * above),
        add_attention=size.attention,
        num_class_embeds=classes + 1,
    )


def inner_shape(options: DiffusionOptions, tier: Tier, shape_CHW: Shape) -> Shape:
    """Return the shape of an image inside the U-Net.

    Raises
    ------
    SpecError
        As in `build`.
    """
    (channels, height, width), factor = shape_CHW, options.unshuffle
    if height % factor or width % factor:
        allowed = [str(f) for f in range(1, min(height, width) + 1) if height % f == width % f == 0]
        raise SpecError(
            f"strategy.generator.unshuffle = {factor}: does not divide both sides of images of {height}x{width} pixels; "
            f"choose one of {', '.join(allowed)}"
        )
    sides = height // factor, width // factor
    halvings = {name: len(size.widths) - 1 for name, size in _SIZES.items()}
    if any(side % 2 ** halvings[tier] for side in sides):
        fit = [name for name, times in halvings.items() if not any(side % 2**times for side in sides)]
        raise SpecError(
            f"strategy.generator.tiers = {list(options.tiers)}: {tier} halves images {halvings[tier]} times, which "
            f"{sides[0]}x{sides[1]} pixels (strategy.generator.unshuffle = {factor}) do not allow; "
            + (f"choose from {', '.join(fit)}, or another unshuffle" if fit else "choose another unshuffle")
        )
    return channels * factor**2, *sides


def initial(options: DiffusionOptions, tier: Tier, shape_CHW: Shape, classes: int, seed: int) -> UNet2DModel:
    """Build a U-Net whose weights depend on nothing but the arguments; process-wide generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive(seed, "generator"))
        return build(options, tier, shape_CHW, classes)


@lru_cache(maxsize=64)
def _layout(options: DiffusionOptions, tier: Tier, shape_CHW: Shape, classes: int) -> Layout:
    with torch.device("meta"):  # names and shapes need no numbers
        unet = build(options, tier, shape_CHW, classes)
    return {key: ("float32", tuple(tensor.shape)) for key, tensor in unet.state_dict().items()}


def train(
    unet: UNet2DModel,
    x_NCHW: Tensor,
    y_N: Tensor,
    options: DiffusionOptions,
    order: torch.Generator,
    draws: torch.Generator,
    private: Private | None = None,
) -> Fitted:
    """Train in place; return the running mean of the weights.

    Parameters
    ----------
    x_NCHW : Tensor
        Images in -1..1.
    order : torch.Generator
        Decides which samples each step sees.
    draws : torch.Generator
        Gives timesteps, noise, and whose labels are hidden.
    private : Private, optional
        Makes it DP-SGD: every record is in a step with probability `options.batch_size` / N, and there is no loss to return.
    """
    unet.train()
    x_NCHW, schedule = F.pixel_unshuffle(x_NCHW, options.unshuffle), noise_schedule(options)

    def losses(batch: Tensor, model: nn.Module) -> Tensor:
        return row_losses(model, x_NCHW[batch], y_N[batch], options, schedule, draws)

    course = _Course(unet, options)
    loss = None
    if private is None:
        loss = _train(course, losses, full_batches(len(y_N), options, order))
    else:
        _train_private(course, losses, len(y_N), order, private)
    return Fitted(course.weights(), loss, options.steps)


def _observe(unet: nn.Module, x_NCHW: Tensor, y_N: Tensor, options: DiffusionOptions, private: Private | None) -> None:
    """Tell those who price it what `fit` is about to do."""
    batch_size = min(options.batch_size, len(y_N)) if private else options.batch_size
    batch = torch.arange(batch_size) % len(y_N)

    def steps(copy: Any, count: int) -> None:
        few, quiet = options.model_copy(update={"steps": count, "batch_size": batch_size}), torch.Generator()
        train(copy, x_NCHW[batch], y_N[batch], few, quiet, quiet, private and private.rehearsal())

    settings = (tuple(x_NCHW.shape[1:]), options.model_copy(update={"steps": 1}))
    observe(unet, steps, options.steps, batch_size, settings, "adam", per_sample=private is not None)


class _Course:
    """What goes on from step to step: a U-Net's optimizer, its learning rate, the running mean of its weights."""

    def __init__(self, unet: nn.Module, options: DiffusionOptions) -> None:
        self.unet, self.options, self._step = unet, options, 0
        self.optimizer = torch.optim.Adam(unet.parameters(), lr=options.lr, fused=True)
        self._rate = torch.optim.lr_scheduler.LambdaLR(self.optimizer, partial(rate_at, options=options))
        self._weights = {name: parameter.detach() for name, parameter in unet.named_parameters()}
        self._mean = [weight.clone() for weight in self._weights.values()]

    def advance(self) -> None:
        """Take note of a step that the optimizer has taken."""
        torch._foreach_lerp_(self._mean, list(self._weights.values()), 1 - decay_at(self._step, self.options))
        self._rate.step()
        self._step += 1

    def weights(self) -> dict[str, Tensor]:
        """Return the running mean as it is uploaded."""
        return dict(zip(self._weights, self._mean, strict=True))


def rate_at(step: int, options: DiffusionOptions) -> float:
    """Return the learning rate of a step, counted from 0, over the highest one."""
    rising = (step + 1) / max(1, options.lr_warmup)
    falling = (options.steps - step) / (0.4 * options.steps)
    return min(1.0, rising, falling)


def decay_at(step: int, options: DiffusionOptions) -> float:
    """Return the decay of the running mean after a step, counted from 0: the mean forgets the first weights quickly."""
    return min(options.ema, 0.99 if options.steps < 1000 else 1.0, (1 + step) / (10 + step))


def full_batches(samples: int, options: DiffusionOptions, order: torch.Generator) -> Iterable[Tensor]:
    """Return the indices of every step's samples: one random pass after another, cut into batches of equal size."""
    seen = options.steps * options.batch_size
    passes = [torch.randperm(samples, generator=order) for _ in range(math.ceil(seen / samples))]
    return torch.cat(passes)[:seen].split(options.batch_size)


def _train(course: _Course, losses: Losses, batches: Iterable[Tensor]) -> float:
    """Take a step a batch; return the mean loss, each step's at the weights it was trained with."""
    parameters, total = list(course.unet.parameters()), torch.zeros(())
    for batch in batches:
        course.optimizer.zero_grad()
        loss = losses(batch, course.unet).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, course.options.clip, foreach=True)
        course.optimizer.step()
        course.advance()
        total += loss.detach()
    return total.item() / course.options.steps


def _train_private(course: _Course, losses: Losses, records: int, order: torch.Generator, private: Private) -> None:
    """Take steps of DP-SGD on Poisson samples; there is no loss to return: it would be a statistic without noise."""
    expected, steps, draws = course.options.batch_size, course.options.steps, course.options.draws
    how = private.sigma, private.max_grad_norm, expected, private.noise, draws
    with DpSgd(course.unet, course.optimizer, *how) as dp:
        for batch in poisson_batches(records, expected / records, steps, order):
            dp.step(partial(losses, batch), len(batch))
            course.advance()


def row_losses(
    unet: nn.Module, x_NCHW: Tensor, y_N: Tensor, options: DiffusionOptions, schedule: DDIMScheduler, draws: torch.Generator
) -> Tensor:
    """Return the loss of every row, the mean square over pixels, shape (R,); the draws of one sample side by side.

    Parameters
    ----------
    x_NCHW : Tensor
        Images as the U-Net sees them, unshuffled.
    """
    x_RCHW = x_NCHW.repeat_interleave(options.draws, 0)
    t_R = stratified_timesteps(len(y_N), options, draws)
    noise_RCHW = torch.randn(x_RCHW.shape, generator=draws)
    hidden_R = torch.rand(len(t_R), generator=draws) < options.label_dropout
    labels_R = y_N.repeat_interleave(options.draws).masked_fill(hidden_R, null_label(unet))
    noisy_RCHW, target_RCHW = schedule.add_noise(x_RCHW, noise_RCHW, t_R), noise_RCHW  # type: ignore[arg-type]
    if options.prediction == "v":
        target_RCHW = schedule.get_velocity(x_RCHW, noise_RCHW, t_R)  # type: ignore[arg-type]
    (predicted_RCHW,) = unet(noisy_RCHW, t_R, labels_R, return_dict=False)
    return (predicted_RCHW - target_RCHW).square().flatten(1).mean(1)


def stratified_timesteps(samples: int, options: DiffusionOptions, generator: torch.Generator) -> Tensor:
    """Return timesteps, int64, shape (R,): each sample's draws fall into equal stretches of 0..timesteps, one in each."""
    place_ND = torch.arange(options.draws) + torch.rand(samples, options.draws, generator=generator)
    return (place_ND * (options.timesteps / options.draws)).long().clamp_(max=options.timesteps - 1).flatten()


def null_label(unet: nn.Module) -> int:
    """Return the label that stands for a hidden one: the last."""
    return len(unet.get_parameter("class_embedding.weight")) - 1


def noise_schedule(options: DiffusionOptions) -> DDIMScheduler:
    """Return how images become noise, and how DDIM gets back."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    # sampling has to start at the highest level of noise, where nothing is left of an image: arXiv:2305.08891, section 3.3
    return DDIMScheduler(**_schedule(options), clip_sample=True, timestep_spacing="trailing")


def _schedule(options: DiffusionOptions) -> dict[str, Any]:
    """Return what training and all solvers must agree on."""
    return {
        "num_train_timesteps": options.timesteps,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction" if options.prediction == "v" else "epsilon",
    }


def _solver(options: DiffusionOptions) -> DDIMScheduler | DPMSolverMultistepScheduler:
    if options.solver == "ddim":
        solver = noise_schedule(options)
    else:
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

        # the cosine schedule ends in all but pure noise, from which the first step would be infinite; the bound is diffusers'
        solver = DPMSolverMultistepScheduler(**_schedule(options), lambda_min_clipped=-5.1)
    solver.set_timesteps(options.sampling_steps)
    return solver


@torch.inference_mode()
def generate(unet: UNet2DModel, labels_N: Tensor, options: DiffusionOptions, generator: torch.Generator) -> Tensor:
    """Sample one image for every label, all at once.

    Parameters
    ----------
    generator : torch.Generator
        Gives the noise to start from; the solvers add none.

    Returns
    -------
    Tensor, shape (N, C, H, W)
        Within -1..1.
    """
    unet.eval()
    solver = _solver(options)
    inner_CHW = unet.config["in_channels"], *unet.config["sample_size"]
    x_NCHW = torch.randn(len(labels_N), *inner_CHW, generator=generator)
    for t in solver.timesteps:
        x_NCHW = solver.step(_guided(unet, x_NCHW, t, labels_N, options.guidance), t, x_NCHW, return_dict=False)[0]
    return F.pixel_shuffle(x_NCHW, options.unshuffle).clamp(-1, 1)


def _guided(unet: UNet2DModel, x_NCHW: Tensor, t: Tensor, labels_N: Tensor, weight: float) -> Tensor:
    """Return what the U-Net predicts; velocity is affine in the noise, so guidance is the same formula for both."""
    if not weight:
        return unet(x_NCHW, t, labels_N, return_dict=False)[0]
    both = torch.cat([labels_N, torch.full_like(labels_N, null_label(unet))])
    conditional_NCHW, free_NCHW = unet(x_NCHW.repeat(2, 1, 1, 1), t, both, return_dict=False)[0].chunk(2)
    return (1 + weight) * conditional_NCHW - weight * free_NCHW

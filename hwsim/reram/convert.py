"""A torch model whose matrices are stored in crossbars: the same modules around, quantised products inside.

Weights are quantised symmetrically, a scale for each output; activations with one scale and one zero point for each layer, from
what calibration data show. A zero point costs no conversion: ``sum_k (x_k - z) w_k`` is corrected digitally by
``z sum_k w_k``, which is known beforehand. Products of two activations (attention scores) stay digital, as do
normalisation and whatever `layers.mapped_kind` does not know.

Shapes: B = batch, N = input vectors, G = groups, K = inputs of a group, O = outputs of a group, F = all outputs; in attention
B, H = heads, N = queries, S = keys, X = width of a head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from ..simulator import HwsimError, Job
from .adc import Adc, table
from .calibrate import Histogram
from .crossbar import QUIET, CrossbarOptions, Crossbars, Table, Tally
from .layers import Mapped, mapped_kind

BATCH = 16  # samples that run together; bounds memory, changes no result
Store = Callable[[np.ndarray, CrossbarOptions, str], Crossbars]
"""Makes crossbars of whole weights (G, O, K) for the layer of that name."""


def ideal_cells(weight_GOK: np.ndarray, options: CrossbarOptions, name: str) -> Crossbars:
    """Store weights in cells that hold exactly what is written."""
    return Crossbars(weight_GOK, options)


@dataclass
class Session:
    """What all layers of a model are doing.

    Attributes
    ----------
    mode : str
        "observe" runs in floats and notes ranges, "integer" multiplies quantised numbers exactly, "crossbar" goes through the
        converters.
    measure : bool
        Note in "crossbar" mode how far products are from exact ones.
    """

    mode: Literal["observe", "integer", "crossbar"] = "observe"
    measure: bool = False
    job: Job = QUIET
    workers: int = 1


class MappedLayer(nn.Module):
    """A layer whose matrix is in crossbars.

    Parameters
    ----------
    name : str
        Path in the model.
    original : Module
        What it replaces.
    crossbars : Crossbars
    scale_GO : ndarray
        What a stored weight of 1 means.
    session : Session

    Attributes
    ----------
    positions : int
        Input vectors of one sample.
    seen : int
        Input vectors that were observed.
    power, error_power : float
        Sums of squares of exact products, and of their errors, as far as they were measured.
    """

    def __init__(self, name: str, original: nn.Module, crossbars: Crossbars, scale_GO: np.ndarray, session: Session) -> None:
        super().__init__()
        self.name, self.original, self.crossbars, self.session = name, original, crossbars, session
        self.scale_GO = scale_GO
        self.low = self.high = 0.0
        self.positions = self.seen = 0
        self.table: Table | None = None
        self.tally = Tally()
        self.power = self.error_power = 0.0

    @property
    def weight(self) -> Tensor:
        """The original's, for modules that read it; what they do with it is digital."""
        return cast(Tensor, self.original.weight)

    @property
    def bias(self) -> Tensor | None:
        """The original's."""
        return cast("Tensor | None", self.original.bias)

    @property
    def options(self) -> CrossbarOptions:
        """Of the crossbars."""
        return self.crossbars.options

    @property
    def is_dead(self) -> bool:
        """Say whether calibration saw nothing but zeros."""
        return self.low == self.high == 0

    @property
    def step(self) -> float:
        """What an activation code of 1 means."""
        return (self.high - self.low) / (2**self.options.activation_bits - 1) or 1.0

    @property
    def zero(self) -> int:
        """Code of the activation 0."""
        return round(-self.low / self.step)

    def histogram(self) -> Histogram:
        """Return the bit lines that were counted, if `set_adcs` asked for them, and the power that was measured."""
        assert self.tally.histogram_CIY is not None
        return Histogram.of(self.tally.histogram_CIY, self.crossbars.inputs, self.options, self.power, self.tally.idle)

    def forward(self, x: Tensor) -> Tensor:
        """Do what the session's mode says."""
        self.session.job.step()
        if self.session.mode == "observe":
            self._observe(x)
            y = self.original(x)
            self.seen += y.numel() // (self.crossbars.groups * self.crossbars.outputs)
            return y
        codes = torch.round(x.double() / self.step).add_(self.zero).clamp_(0, 2**self.options.activation_bits - 1)
        x_NGK, shape = self.lower(codes.numpy().astype(np.uint16))
        acc_NGO = self._multiply(x_NGK) - self.zero * self.crossbars.weight_GOK.sum(axis=2)
        y_NF = torch.from_numpy((acc_NGO * (self.scale_GO * self.step)).reshape(len(x_NGK), -1))
        return self.lift(y_NF, shape).to(x.dtype)

    def lower(self, codes: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """Turn codes of the layer's input into input vectors (N, G, K), and say what shape outputs have."""
        raise NotImplementedError

    def lift(self, y_NF: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Turn products into the layer's output."""
        raise NotImplementedError

    def _observe(self, x: Tensor) -> None:
        if not bool(torch.isfinite(x).all()):
            raise HwsimError(f"data: activations of layer {self.name} are not finite", field="data")
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))

    def _multiply(self, x_NGK: np.ndarray) -> np.ndarray:
        session = self.session
        if session.mode == "integer":
            return self.crossbars.exact(x_NGK)
        assert self.table is not None
        acc_NGO = self.crossbars.multiply(x_NGK, self.table, self.tally, session.job, session.workers)
        if session.measure:
            exact_NGO = self.crossbars.exact(x_NGK)
            corrected_NGO = exact_NGO - self.zero * self.crossbars.weight_GOK.sum(axis=2)
            self.power += float(np.square(corrected_NGO, dtype=np.float64).sum())
            self.error_power += float(np.square(acc_NGO - exact_NGO, dtype=np.float64).sum())
        return acc_NGO


class MappedLinear(MappedLayer):
    """``nn.Linear``, on inputs of any leading shape."""

    def lower(self, codes: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """Flatten what leads."""
        return codes.reshape(-1, 1, codes.shape[-1]), codes.shape[:-1]

    def lift(self, y_NF: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Undo it, add the bias."""
        y = y_NF.reshape(*shape, -1)
        return y if self.bias is None else y + self.bias


class MappedConv(MappedLayer):
    """``nn.Conv1d`` and ``nn.Conv2d``: every position of the kernel is one input vector."""

    def lower(self, codes: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """Pad with the zero point, or as the layer does, and take windows."""
        conv = cast(nn.Conv2d, self.original)
        spatial = codes.ndim - 2
        sides = conv._reversed_padding_repeated_twice  # what F.pad takes: last dimension first
        padding = [(sides[2 * d], sides[2 * d + 1]) for d in reversed(range(spatial))]
        modes: dict[str, dict[str, Any]] = {
            "zeros": {"mode": "constant", "constant_values": self.zero},
            "reflect": {"mode": "reflect"},
            "replicate": {"mode": "edge"},
            "circular": {"mode": "wrap"},
        }
        padded = np.pad(codes, [(0, 0), (0, 0), *padding], **modes[conv.padding_mode])
        axes = tuple(range(2, 2 + spatial))
        reach = tuple(d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        every = [slice(None, None, step) for step in (1, 1, *conv.stride, *conv.dilation)]
        windows = sliding_window_view(padded, reach, axis=axes)[tuple(every)]
        positions = windows.shape[2 : 2 + spatial]
        order = (0, *axes, 1, *range(2 + spatial, 2 + 2 * spatial))
        x_NGK = windows.transpose(order).reshape(-1, conv.groups, self.crossbars.inputs)
        return x_NGK, (len(codes), *positions)

    def lift(self, y_NF: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Put channels second, add the bias."""
        y = y_NF.reshape(*shape, -1)
        y = y if self.bias is None else y + self.bias
        return y.movedim(-1, 1).contiguous()


class MappedAttention(nn.Module):
    """``nn.MultiheadAttention`` with its four projections in crossbars; scores and their sums over values are digital."""

    def __init__(self, attention: nn.MultiheadAttention, mapped: Callable[[str, nn.Linear], MappedLinear]) -> None:
        super().__init__()
        self.num_heads, self.batch_first = attention.num_heads, attention.batch_first
        for part, linear in _projections(attention).items():
            self.add_module(part, mapped(part, linear))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as the original does, without dropout."""
        batched = query.dim() == 3
        inputs = [x if batched else x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value)]
        if not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q_BHNX, k_BHSX, v_BHSX = (
            self.get_submodule(part)(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part, x in zip(("q_proj", "k_proj", "v_proj"), inputs, strict=True)
        )
        score_BHNS = q_BHNX @ k_BHSX.transpose(-1, -2) / q_BHNX.shape[-1] ** 0.5
        for mask in self._masks(attn_mask, key_padding_mask, score_BHNS):
            score_BHNS = score_BHNS.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else score_BHNS + mask
        weight_BHNS = score_BHNS.softmax(-1)
        y = self.get_submodule("out_proj")((weight_BHNS @ v_BHSX).transpose(1, 2).flatten(2))
        y = y if self.batch_first else y.transpose(0, 1)
        y = y if batched else y.squeeze(0 if self.batch_first else 1)
        if not need_weights:
            return y, None
        weights = weight_BHNS.mean(1) if average_attn_weights else weight_BHNS
        return y, weights if batched else weights.squeeze(0)

    @staticmethod
    def _masks(attn_mask: Tensor | None, key_padding_mask: Tensor | None, score_BHNS: Tensor) -> Iterator[Tensor]:
        if attn_mask is not None:
            yield attn_mask if attn_mask.dim() == 2 else attn_mask.reshape(score_BHNS.shape)
        if key_padding_mask is not None:
            yield key_padding_mask.reshape(score_BHNS.shape[0], 1, 1, -1)


class CrossbarModel:
    """A converted model.

    Parameters
    ----------
    model : Module
        Not changed.
    options : CrossbarOptions
    sample : Tensor
        At least one sample, to see what runs.
    store : callable
        Makes crossbars.

    Attributes
    ----------
    layers : list of MappedLayer
        In the model's order.
    macs : int
        Multiply-accumulates of one sample, mapped or not.
    unmapped : list of str
        ``name: class`` of every module with a matrix that is not in crossbars.
    """

    def __init__(self, model: nn.Module, options: CrossbarOptions, sample: Tensor, store: Store = ideal_cells) -> None:
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise HwsimError(f"model: weights of {name} are not finite", field="model")
        self.session = Session()
        try:
            self.float_model = fold_batch_norm(copy.deepcopy(model).eval(), sample[:1])
        except RuntimeError as error:  # what torch raises for shapes that do not fit
            raise HwsimError(f"data: the model cannot run them: {error}", field="data") from None
        self.macs = count_macs(self.float_model, sample[:1])
        conversion = _Conversion(options, store, self.session)
        self.model = conversion.convert(copy.deepcopy(self.float_model))
        self.unmapped = conversion.unmapped
        self.run(sample[:1], "observe")  # shows which layers are used, and how often
        self.layers = [layer for layer in conversion.layers if layer.seen]
        for layer in self.layers:
            layer.positions = layer.seen
        if not self.layers:
            raise HwsimError(f"model: no layer can be mapped; unmapped are {', '.join(self.unmapped) or 'none'}", field="model")

    @property
    def mapped_macs(self) -> int:
        """Multiply-accumulates of one sample in crossbars."""
        return sum(layer.positions * layer.crossbars.weight_GOK.size for layer in self.layers)

    @property
    def stored(self) -> list[Crossbars]:
        """Every set of crossbars once, however many layers share it."""
        return list({id(layer.crossbars): layer.crossbars for layer in self.layers}.values())

    def observe(self, x: Tensor, job: Job = QUIET) -> None:
        """Note the range of every layer's input.

        Raises
        ------
        HwsimError
            If an activation is not finite.
        """
        for layer in self.layers:
            layer.low = layer.high = 0.0
        self.run(x, "observe", job)

    def run(self, x: Tensor, mode: Literal["observe", "integer", "crossbar"], job: Job = QUIET) -> Tensor:
        """Return outputs for all samples, a batch at a time."""
        self.session.mode, self.session.job = mode, job
        return _batches(self.model, x, job)

    def run_float(self, x: Tensor, job: Job = QUIET) -> Tensor:
        """Return the outputs of the model as it was given, but for folded normalisation."""
        return _batches(self.float_model, x, job)

    def set_adcs(self, adcs: Sequence[Sequence[Adc]], skip_idle: bool = False, histogram: bool = False) -> None:
        """Give every layer its converters (one, or one a column), and count anew, with a histogram if asked for."""
        for layer, own in zip(self.layers, adcs, strict=True):
            layer.table = table(own, layer.options, skip_idle, layer.crossbars.resolution)
            layer.tally = Tally.with_histogram(layer.options) if histogram else Tally()
            layer.power = layer.error_power = 0.0


@dataclass
class _Conversion:
    """One walk through a model; weights that several modules share are stored once."""

    options: CrossbarOptions
    store: Store
    session: Session
    layers: list[MappedLayer] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    _done: dict[int, nn.Module] = field(default_factory=dict)
    _stored: dict[Any, tuple[Crossbars, np.ndarray, Tensor]] = field(default_factory=dict)

    def convert(self, module: nn.Module, path: str = "") -> nn.Module:
        """Return what stands in for a module."""
        if id(module) not in self._done:
            self._done[id(module)] = self._replacement(module, path)
        return self._done[id(module)]

    def _replacement(self, module: nn.Module, path: str) -> nn.Module:
        if (kind := mapped_kind(module)) is not None:
            return _BUILDERS[kind](self, module, path)
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)) and not isinstance(module, nn.Embedding):
            self.unmapped.append(f"{path or 'model'}: {type(module).__name__}")
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # its shortcut reads weights that are no longer there
        for name, child in module.named_children():
            setattr(module, name, self.convert(child, f"{path}.{name}" if path else name))
        return module

    def linear(self, linear: nn.Module, path: str) -> MappedLinear:
        weight = cast(Tensor, linear.weight)
        return self._layer(MappedLinear, linear, weight.detach()[None], path)

    def conv1d_of_transformers(self, conv: nn.Module, path: str) -> MappedLinear:
        weight = cast(Tensor, conv.weight)
        return self._layer(MappedLinear, conv, weight.detach().T[None], path)

    def conv(self, conv: nn.Module, path: str) -> MappedConv:
        weight = cast(Tensor, conv.weight)
        weight_GOK = weight.detach().flatten(1).unflatten(0, (cast(int, conv.groups), -1))
        return self._layer(MappedConv, conv, weight_GOK, path)

    def attention(self, attention: nn.Module, path: str) -> MappedAttention:
        def mapped(part: str, linear: nn.Linear) -> MappedLinear:
            return self.linear(linear, f"{path}.{part}" if path else part)

        return MappedAttention(cast(nn.MultiheadAttention, attention), mapped)

    def _layer(self, cls: type[Any], original: nn.Module, weight_GOK: Tensor, path: str) -> Any:
        key = (weight_GOK.data_ptr(), weight_GOK.shape, weight_GOK.stride())
        if key not in self._stored:
            codes_GOK, scale_GO = quantise_weights(weight_GOK.double().numpy(), self.options.weight_bits)
            self._stored[key] = (
                self.store(codes_GOK, self.options, path),
                scale_GO,
                weight_GOK,
            )  # kept, or its address is reused
        crossbars, scale_GO, _ = self._stored[key]
        layer = cls(path or "model", original, crossbars, scale_GO, self.session)
        self.layers.append(layer)
        return layer


def quantise_weights(weight_GOK: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Round weights to signed whole numbers, symmetric, a scale for each output; return them and the scales (G, O)."""
    most = 2 ** (bits - 1) - 1
    scale_GO = np.abs(weight_GOK).max(axis=2, initial=0) / most
    scale_GO[scale_GO == 0] = 1.0
    return np.rint(weight_GOK / scale_GO[:, :, None]).astype(np.int64), scale_GO


_BUILDERS: dict[Mapped, Callable[[_Conversion, nn.Module, str], nn.Module]] = {
    "linear": _Conversion.linear,
    "conv": _Conversion.conv,
    "conv1d_of_transformers": _Conversion.conv1d_of_transformers,
    "attention": _Conversion.attention,
}


def _projections(attention: nn.MultiheadAttention) -> dict[str, nn.Linear]:
    """Return the projections of queries, keys, values and outputs as linear layers that share the attention's weights."""
    if attention._qkv_same_embed_dim:
        weights = attention.in_proj_weight.chunk(3)
    else:
        weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    parts = {}
    for part, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
        parts[part] = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        parts[part].weight = nn.Parameter(weight.detach(), requires_grad=False)
        parts[part].bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return {**parts, "out_proj": attention.out_proj}


def fold_batch_norm(model: nn.Module, x: Tensor) -> nn.Module:
    """Merge every batch normalisation into the convolution or linear layer whose output it takes, in place.

    Which that is, one run shows. Layers that run more than once are left alone, and so is the whole model should merging
    change its output: then something else reads what the layer gives.
    """
    fusers = {
        nn.Conv1d: nn.utils.fuse_conv_bn_eval,
        nn.Conv2d: nn.utils.fuse_conv_bn_eval,
        nn.Linear: nn.utils.fuse_linear_bn_eval,
    }
    made: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []

    def after(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: made.update({id(output): (name, output)})

    def before(name: str) -> Callable[..., None]:
        return lambda module, inputs: pairs.append((made[id(inputs[0])][0], name)) if id(inputs[0]) in made else None

    hooks = []
    for name, module in model.named_modules():
        if type(module) in fusers:
            hooks.append(module.register_forward_hook(after(name)))
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(before(name)))
    expected = _batches(model, x, QUIET)
    for hook in hooks:
        hook.remove()
    folded = copy.deepcopy(model)
    for layer, norm in pairs:
        if sum(layer == a or norm == b for a, b in pairs) == 1:
            module = folded.get_submodule(layer)
            fuse: Any = fusers[type(module)]
            _replace(folded, layer, fuse(module, folded.get_submodule(norm)))
            _replace(folded, norm, nn.Identity())
    return folded if torch.allclose(_batches(folded, x, QUIET), expected, rtol=1e-3, atol=1e-4) else model


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def count_macs(model: nn.Module, *inputs: Tensor) -> int:
    """Return all multiply-accumulates of a forward pass, whoever asks for them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # the counter knows no fused attention for CPUs; the plain one is made of products that it does know
    with sdpa_kernel(SDPBackend.MATH), _plain_attention(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let attention run module by module: torch's shortcuts read weights past the modules that hold them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _batches(model: nn.Module, x: Tensor, job: Job) -> Tensor:
    outputs = []
    with _plain_attention(), torch.inference_mode():
        for batch in x.split(BATCH):
            job.step()
            y = model(batch)
            if not isinstance(y, Tensor):
                raise HwsimError(f"model: its output is a {type(y).__name__}; a tensor is needed", field="model")
            outputs.append(y)
    return torch.cat(outputs)

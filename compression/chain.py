"""Chains of codecs: what the two ends of an upload call.

Here, once for all codecs: the target (weights, or their change since the global model), error feedback, composition, tied
tensors, the report. A tensor that no codec takes (integers, buffers, small ones, or where encoding would not pay) travels in
full and in its own dtype, also where the target is the delta.

Error feedback (Seide et al. 2014; Karimireddy et al., arXiv:1901.09847): what one upload loses is added to the next one's
delta.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor

from ..core.errors import CalibrationError, CodecError, PayloadError
from ..core.options import Options
from .codec import SMALL, CodecOptions, Context, Encoding, Stage
from .nodes import Node, Reader
from .report import Report, TensorReport
from .wire import DTYPES, Base, Layout, dense_bytes, dtype_name, layout, open_sealed, seal

Target = Literal["delta", "weights"]
RESIDUAL = "residual/"  # before a tensor's name: what was lost of it, in the state
PART = "#"  # between a tensor's name and a part's number


class ChainOptions(Options):
    """Base of what says how models are compressed: which codecs, in which order."""

    codec: tuple[SerializeAsAny[CodecOptions], ...] = Field(min_length=1)
    """The codecs, first to last; a later one gets what an earlier one leaves."""

    @property
    def names(self) -> list[str]:
        """What the codecs are called."""
        return [options.codec for options in self.codec]

    def stages(self) -> list[Stage]:
        """Make the codecs."""
        return [options.build() for options in self.codec]

    @model_validator(mode="after")
    def _is_a_chain(self) -> ChainOptions:
        for stage, name, later in zip(self.stages(), self.names, self.names[1:], strict=False):
            if stage.terminal:
                raise ValueError(f"codec = {self.names}: {name!r} leaves nothing for {later!r} to encode; put it last")
        return self

    def check_target(self, target: Target) -> None:
        """Raise a ValueError if a codec cannot be applied to the target."""
        for options in self.codec:
            if target not in options.targets:
                raise ValueError(f"target = {target!r}: codec {options.codec!r} encodes {', '.join(options.targets)} only")


class UploadOptions(ChainOptions):
    """How updates are compressed: `[upload]`."""

    target: Target = "delta"
    """What is encoded: the change since the model that both ends have, or the weights themselves."""
    error_feedback: bool | None = None
    """Add what an upload loses to the client's next one; absent: for deltas, unless the codecs' errors average out."""
    calibration_samples: Annotated[int, Field(ge=1)] = 64
    """Training samples that a client shows to codecs that calibrate themselves, drawn anew in every round."""

    @model_validator(mode="after")
    def _fits_together(self) -> UploadOptions:
        self.check_target(self.target)
        loud = [name for stage, name in zip(self.stages(), self.names, strict=True) if not stage.contracts]
        if self.error_feedback and loud:
            raise ValueError(f"error_feedback = True: {loud[0]!r} averages out by itself, and fed back its error would grow")
        if self.error_feedback and self.target == "weights":
            raise ValueError("error_feedback = True: weights are sent whole every time; choose target = 'delta'")
        return self

    def build(self) -> Codec:
        """Make the codec."""
        stages, feedback = self.stages(), self.error_feedback
        if feedback is None:
            worth_it = any(stage.biased for stage in stages) and all(stage.contracts for stage in stages)
            feedback = self.target == "delta" and worth_it
        return Codec(self.names, stages, self.target, feedback)


class DownloadOptions(ChainOptions):
    """How the model that the server broadcasts is compressed: `[download]`. Whole every time: a client has no earlier one."""

    @model_validator(mode="after")
    def _needs_nothing_else(self) -> DownloadOptions:
        self.check_target("weights")
        if calibrated := [name for stage, name in zip(self.stages(), self.names, strict=True) if stage.needs_calibration]:
            raise ValueError(f"codec = {self.names}: {calibrated[0]!r} calibrates itself on data, and the server has none")
        return self

    def build(self) -> Codec:
        """Make the codec."""
        return Codec(self.names, self.stages(), "weights", error_feedback=False)


@dataclass(frozen=True)
class Encoded:
    """An encoded update: the bytes that travel, what they cost and lost, and what the client keeps for the next time."""

    blob: bytes
    report: Report
    state: dict[str, Tensor]


class Codec:
    """Encodes updates at one end and decodes them at the other. Holds no state: one serves all clients and all rounds.

    Parameters
    ----------
    names : sequence of str
        What the stages are called; both ends must agree.
    stages : sequence of Stage
        First to last.
    target : {"delta", "weights"}
        What is encoded.
    error_feedback : bool
        Keep what is lost and add it the next time.
    """

    def __init__(self, names: Sequence[str], stages: Sequence[Stage], target: Target, error_feedback: bool) -> None:
        self.names, self.stages, self.target, self.error_feedback = tuple(names), tuple(stages), target, error_feedback

    @property
    def needs_calibration(self) -> bool:
        """A stage needs `Context.calibration`; on private data, what is sent then tells of them beside the update."""
        return any(stage.needs_calibration for stage in self.stages)

    @property
    def randomised(self) -> bool:
        """A stage needs `Context.generator`."""
        return any(stage.randomised for stage in self.stages)

    @property
    def nonlinear_because(self) -> str:
        """Why encodings of several clients cannot be added before they are decoded; empty if they can."""
        reasons = [f"{n}: {s.nonlinear_because}" for n, s in zip(self.names, self.stages, strict=True) if s.nonlinear_because]
        return "; ".join(reasons)

    @property
    def linear(self) -> bool:
        """Encodings can be added before they are decoded, as secure aggregation must."""
        return not self.nonlinear_because

    def encode(self, update: Mapping[str, Tensor], context: Context | None = None) -> Encoded:
        """Encode an update.

        Parameters
        ----------
        update : mapping of str to Tensor
            The trained weights, also where the target is the delta.
        context : Context, optional
            What the codec needs besides.

        Raises
        ------
        CodecError
            If a tensor is not finite, has a dtype that cannot travel, or no counterpart in the base or the state.
        CalibrationError
            If a stage needs calibration and there is none, or it cannot be used.
        """
        started = time.perf_counter()
        context = context or Context()
        self._check(update, context)
        values = {name: self._value(name, tensor, context) for name, tensor in update.items()}
        twins = _twins(update, values)
        nodes, notes, state = self._encode(update, values, twins, context)
        lost = {name: self._lost(x, nodes[twins.get(name, name)]) for name, x in values.items()}
        if self.error_feedback:
            state |= {RESIDUAL + name: residual for name, residual in lost.items() if residual is not None}
        header = {
            "base": context.base.fingerprint if context.base and self.target == "delta" else None,
            "codec": list(self.names),
            "target": self.target,
            "tensors": [
                [name, dtype_name(x.dtype), list(x.shape), twins[name] if name in twins else nodes[name].header(self.stages)]
                for name, x in update.items()
            ],
        }
        blob = seal(header, [array for node in nodes.values() for array in node.arrays()])
        tensors = tuple(self._tensor_report(name, values[name], lost[name], nodes, twins, notes) for name in update)
        trained = [x for name, x in values.items() if x.is_floating_point() and name not in context.buffers]
        error = _ratio(_norm(lost.values()), _norm(trained))
        dense = dense_bytes(layout(update))
        return Encoded(
            blob, Report(self.names, self.target, dense, len(blob), error, time.perf_counter() - started, tensors), state
        )

    def _check(self, update: Mapping[str, Tensor], context: Context) -> None:
        if self.needs_calibration and context.calibration is None:
            raise CalibrationError(f"codec {' > '.join(self.names)} needs a model and calibration batches, and got none")
        if self.randomised and context.generator is None:
            raise CodecError(f"codec {' > '.join(self.names)} draws random numbers and needs a generator, and got none")
        if self.target == "delta" and context.base is None:
            raise CodecError("the target is the delta: the model that the update started from must be given as the base")
        base = layout(context.base.tensors) if context.base and self.target == "delta" else None
        for name, (shape, dtype) in layout(update).items():
            if PART in name:
                raise CodecError(f"tensor {name!r}: names with {PART!r} are for parts of tensors")
            if dtype not in DTYPES:
                raise CodecError(
                    f"tensor {name!r} is {dtype_name(dtype)}; only {', '.join(map(dtype_name, DTYPES))} can travel"
                )
            if base is not None and base.get(name) != (shape, dtype):
                raise CodecError(f"tensor {name!r} is {dtype_name(dtype)}{list(shape)}; the base has {base.get(name)}")
            if not bool(update[name].isfinite().all()):
                raise CodecError(f"tensor {name!r} holds NaN or infinity")

    def _value(self, name: str, tensor: Tensor, context: Context) -> Tensor:
        """Return what is to be encoded of one tensor: weights or delta, and what the last upload lost of it."""
        if not tensor.is_floating_point() or name in context.buffers:
            return tensor
        x = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
        if self.target == "delta":
            assert context.base is not None
            x = x - context.base.tensors[name]
        if self.error_feedback and (residual := context.state.get(RESIDUAL + name)) is not None:
            if residual.shape != x.shape:
                raise CodecError(f"tensor {name!r} has shape {list(x.shape)}; its residual has {list(residual.shape)}")
            x = x + residual
        return x

    def _encode(
        self, update: Mapping[str, Tensor], values: Mapping[str, Tensor], twins: Mapping[str, str], context: Context
    ) -> tuple[dict[str, Node], dict[str, str], dict[str, Tensor]]:
        """Run the stages; return a node for every tensor that has no earlier twin, notes and the stages' states."""
        own = [name for name in update if name not in twins]
        left = {name: values[name].float() for name in own if update[name].is_floating_point() and name not in context.buffers}
        made: list[Encoding] = []
        notes: dict[str, str] = {}
        state: dict[str, Tensor] = {}
        for index, stage in enumerate(self.stages):
            large = {key: x for key, x in left.items() if x.numel() >= SMALL}
            base = context.base if self.target == "delta" else None
            made.append(encoding := stage.encode(large, replace(context.under(f"{index}/"), base=base)))
            notes |= encoding.notes
            state |= {f"{index}/{key}": x for key, x in encoding.state.items()}
            left = {key: x for key, x in left.items() if key not in encoding.parts}
            if not stage.terminal:
                for key, parts in encoding.parts.items():
                    left |= {f"{key}{PART}{j}": x for j, x in enumerate(parts.tensors) if x.dtype == torch.float32}

        def node(key: str, array: Tensor, first: int = 0) -> Node:
            for index in range(first, len(made)):
                if (parts := made[index].parts.get(key)) is not None:
                    inner = [node(f"{key}{PART}{j}", x, index + 1) for j, x in enumerate(parts.tensors)]
                    return Node(index, parts.meta, inner)
            return Node(array=array)

        return {name: node(name, self._in_full(name, update[name], values[name], context)) for name in own}, notes, state

    def _in_full(self, name: str, tensor: Tensor, x: Tensor, context: Context) -> Tensor:
        """Return what travels where no stage takes a tensor: its value, and what the last upload lost of it."""
        if RESIDUAL + name not in context.state or x is tensor:
            return tensor.detach()
        base = context.base.tensors[name] if context.base else 0
        return (base + x).to(tensor.dtype)

    def _lost(self, x: Tensor, node: Node) -> Tensor | None:
        return None if node.stage is None else x.float() - node.decoded(self.stages, tuple(x.shape))

    def _tensor_report(
        self,
        name: str,
        x: Tensor,
        lost: Tensor | None,
        nodes: Mapping[str, Node],
        twins: Mapping[str, str],
        notes: Mapping[str, str],
    ) -> TensorReport:
        arrays = [] if name in twins else list(nodes[name].arrays())
        encoded = sum(array.numel() * array.element_size() for array in arrays)
        how = f"= {twins[name]}" if name in twins else nodes[name].how(self.names)
        return TensorReport(
            name, x.numel() * x.element_size(), encoded, how, _ratio(_norm([lost]), _norm([x])), notes.get(name, "")
        )

    def decode(self, blob: bytes | memoryview, expected: Layout, base: Base | None = None) -> dict[str, Tensor]:
        """Reconstruct the weights that an update stands for.

        Parameters
        ----------
        blob : bytes
            From a stranger.
        expected : Layout
            Every tensor there must be, with shape and dtype.
        base : Base, optional
            The model that a delta is relative to.

        Returns
        -------
        dict of str to Tensor
            In the order of `expected`; all finite.

        Raises
        ------
        PayloadError
            If the blob is not an update of that layout, relative to that base, by this codec, whole, unchanged and finite.
        CodecError
            If the base is missing or not of that layout.
        """
        nodes = self.read(blob, expected, base)
        return {name: self._decoded(name, node, *expected[name], base) for name, node in nodes.items()}

    def _decoded(self, name: str, node: Node, shape: tuple[int, ...], dtype: torch.dtype, base: Base | None) -> Tensor:
        try:
            x = node.decoded(self.stages, shape)
        except PayloadError as error:
            raise PayloadError(f"tensor {name!r}: {error}") from None
        if node.stage is not None and self.target == "delta":
            assert base is not None
            x = base.tensors[name] + x
        x = x.to(dtype)
        if not bool(x.isfinite().all()):
            raise PayloadError(f"tensor {name!r} holds NaN or infinity")
        return x

    def read(self, blob: bytes | memoryview, expected: Layout, base: Base | None = None) -> dict[str, Node]:
        """Check a blob and return how each tensor is encoded, for those who want more of it than `decode` gives.

        Raises
        ------
        PayloadError, CodecError
            As `decode`, but for what only decoding shows.
        """
        if self.target == "delta" and (base is None or not expected.items() <= layout(base.tensors).items()):
            raise CodecError("the target is the delta: the model that updates start from must be given, in the expected layout")
        most = 1024 + sum(2 * len(json.dumps(name)) + 32 * len(shape) + 512 for name, (shape, _) in expected.items())
        header, body = open_sealed(blob, most)
        if header.keys() != {"base", "codec", "target", "tensors"} or not isinstance(header["tensors"], list):
            raise PayloadError("the header lacks fields, or has others than base, codec, target and tensors")
        if (header["codec"], header["target"]) != (list(self.names), self.target):
            raise PayloadError(
                f"the update is {header['codec']!r} of {header['target']!r}; expected {list(self.names)!r} of {self.target!r}"
            )
        if header["base"] != (fingerprint := base.fingerprint if base and self.target == "delta" else None):
            raise PayloadError(f"the update is relative to model {header['base']!r}; expected {fingerprint!r}")
        return Reader(self.names, self.stages, expected, body).read(header["tensors"])


def _twins(update: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, str]:
    """Find tensors that are equal, as tied ones are, in what they are and what is to be encoded of them: later to first."""
    twins: dict[str, str] = {}
    alike: dict[Any, list[str]] = {}
    for name, tensor in update.items():
        if tensor.numel() < SMALL:
            continue
        candidates = alike.setdefault((tensor.dtype, tensor.shape, *tensor.flatten()[:8].tolist()), [])
        for other in candidates:
            if torch.equal(tensor, update[other]) and torch.equal(values[name], values[other]):
                twins[name] = other
                break
        else:
            candidates.append(name)
    return twins


def _norm(tensors: Iterable[Tensor | None]) -> float:
    """Return the Frobenius norm of all tensors together."""
    return sum(float(x.double().square().sum()) for x in tensors if x is not None and x.numel()) ** 0.5


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0

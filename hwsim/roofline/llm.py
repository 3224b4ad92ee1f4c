"""What a large language model computes and moves when it reads a prompt and generates tokens (arXiv:2402.16363, section 3)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from ...core.options import Options
from ..simulator import HwsimError
from .architecture import Architecture, preset
from .transformer import Forward
from .viewer import ViewerForward
from .workload import Footprint, Operator, Precision, Workload

Bits = Literal[2, 3, 4, 6, 8, 16, 32]
_FORWARD: dict[str, type[Forward]] = {"corrected": Forward, "viewer": ViewerForward}


class LlmRequest(Options):
    """A transformer, how its numbers are stored, and what it is to do."""

    model: str = ""
    """Name of a known architecture; or give `architecture`."""
    architecture: Architecture | None = None
    """Dimensions of one that has no name here; or give `model`."""
    mode: Literal["corrected", "viewer"] = "corrected"
    """Whether LLM-Viewer's slips are mended or reproduced."""
    stage: Literal["prefill", "decode", "generate"] = "prefill"
    """Read a context, add one token to it, or do both until `generated` tokens are there."""
    batch: Annotated[int, Field(ge=1, le=2**16)] = 1
    """Sequences at once."""
    generated: Annotated[int, Field(ge=0, le=2**24)] = 0
    """Tokens that stage `generate` produces for each sequence; 0 for the other stages."""
    context: Annotated[int, Field(ge=1, le=2**24)]
    """Tokens of each sequence that are read, or that are in the KV cache before a decode step."""
    weight_bits: Bits = 16
    """Bits of a parameter."""
    activation_bits: Bits = 16
    """Bits of an activation."""
    kv_bits: Bits = 16
    """Bits of a number in the KV cache."""
    fused_attention: bool = False
    """Attention keeps its scores on the chip (FlashAttention); needs a device whose on-chip buffer is known."""
    tensor_parallel: Annotated[int, Field(ge=1, le=2**12)] = 1
    """Devices that share every layer; must divide heads and MLP. Amounts are those of one of them."""

    @field_validator("architecture")
    @classmethod
    def _one_architecture(cls, given: Architecture | None, info: ValidationInfo) -> Architecture | None:
        name = info.data.get("model", "")
        if bool(name) == bool(given):
            raise ValueError("give either model, a name, or architecture, its dimensions")
        if name:
            preset(name)
        return given

    @field_validator("stage")
    @classmethod
    def _encoders_do_not_generate(cls, stage: str, info: ValidationInfo) -> str:
        dims = _dims(info)
        if dims and not dims.decoder and stage != "prefill":
            raise ValueError("this architecture is an encoder; choose prefill")
        return stage

    @field_validator("generated")
    @classmethod
    def _only_generation_generates(cls, generated: int, info: ValidationInfo) -> int:
        stage = info.data.get("stage")
        if stage and (stage == "generate") != (generated > 0):
            raise ValueError(f"stage is {stage}; choose {'1 or more' if stage == 'generate' else '0'}")
        return generated

    @field_validator("context")
    @classmethod
    def _fits_the_positions(cls, context: int, info: ValidationInfo) -> int:
        dims = _dims(info)
        if dims is None or not {"mode", "stage", "generated"} <= info.data.keys():
            return context
        longest = max([context, *_steps(info.data["mode"], info.data["stage"], context, info.data["generated"])[-1:]])
        if longest > dims.max_positions:
            added = longest - context
            raise ValueError(
                f"the architecture has {dims.max_positions} positions{f', {added} of them for new tokens' if added else ''}; "
                f"choose at most {max(0, dims.max_positions - added)}"
            )
        return context

    @field_validator("tensor_parallel")
    @classmethod
    def _divides(cls, devices: int, info: ValidationInfo) -> int:
        if devices > 1 and info.data.get("mode") == "viewer":
            raise ValueError("mode viewer knows one device; choose 1")
        if dims := _dims(info):
            for name in ("heads", "intermediate_size"):
                if (whole := getattr(dims, name)) % devices:
                    raise ValueError(f"does not divide {name} = {whole}; choose a divisor")
            if dims.kv_heads % devices and devices % dims.kv_heads:
                raise ValueError(f"neither divides kv_heads = {dims.kv_heads} nor is a multiple; choose one that is")
        return devices

    @property
    def dims(self) -> Architecture:
        """The architecture, given or by name."""
        return self.architecture or preset(self.model)

    @property
    def precision(self) -> Precision:
        """What arithmetic is done in: that of the widest numbers, but never narrower than int8.

        LLM-Viewer takes numbers of 32 bits for fp16 too.
        """
        widest = max(self.weight_bits, self.activation_bits, self.kv_bits)
        if widest <= 8:
            return "int8"
        return "fp32" if widest == 32 and self.mode == "corrected" else "fp16"


def workload(request: LlmRequest, buffer_bytes: int | None = None, ridge_flops_per_byte: float | None = None) -> Workload:
    """Return what the request needs of each device.

    Generation of n tokens is a prefill, which yields the first, and n - 1 decode steps. Amounts of a decode step are affine in
    the tokens it attends, so an odd number of successive steps costs exactly as much as its middle step, so many times: a
    handful of operators stand for all steps. Roofline times are exact too, as long as no operator changes sides within
    them; give the ridge, and steps on both sides of it stay apart.

    Parameters
    ----------
    buffer_bytes : int or None
        The device's on-chip buffer; needed by fused attention only.
    ridge_flops_per_byte : float or None
        Operations per byte at which the device's compute and memory are in balance, at `request.precision`.

    Raises
    ------
    HwsimError
        FAILED_PRECONDITION if attention is fused and the buffer unknown; RESOURCE_EXHAUSTED if an amount exceeds 2^63.
    """
    if request.fused_attention and not buffer_bytes:
        raise HwsimError(
            "fused_attention = True: the device's on-chip buffer is not known; choose another device, or false",
            "FAILED_PRECONDITION",
            "fused_attention",
        )
    prefill = _FORWARD[request.mode](
        architecture=request.dims,
        phase="prefill",
        batch=request.batch,
        queries=request.context,
        attended=request.context,
        weight_bits=request.weight_bits,
        activation_bits=request.activation_bits,
        kv_bits=request.kv_bits,
        devices=request.tensor_parallel,
        buffer_bytes=buffer_bytes if request.fused_attention else None,
    )
    operators: list[Operator] = []
    held: list[Footprint] = []
    try:
        if request.stage != "decode":
            operators += prefill.operators()
            held.append(prefill.footprint())
        if steps := _steps(request.mode, request.stage, request.context, request.generated):
            last = replace(prefill, phase="decode", queries=1, attended=steps[-1])
            operators += _all_steps(last, steps, ridge_flops_per_byte)
            held.append(last.footprint())
        footprint = Footprint(**{name: max(getattr(each, name) for each in held) for name in Footprint.model_fields})
        return Workload(operators=tuple(operators), footprint=footprint, precision=request.precision)
    except ValidationError:
        raise HwsimError(
            "an operator needs more than 2^63 operations or bytes; choose a smaller batch, context or architecture",
            "RESOURCE_EXHAUSTED",
        ) from None


def _dims(info: ValidationInfo) -> Architecture | None:
    """Return the architecture of a request that is being validated, if it has a valid one."""
    if "architecture" not in info.data:
        return None
    return info.data["architecture"] or preset(info.data["model"])


def _steps(mode: str, stage: str, context: int, generated: int) -> range:
    """Return how many tokens each decode step attends."""
    first = context + _FORWARD[mode].own
    return range(first, {"prefill": first, "decode": first + 1, "generate": context + generated}[stage])


def _all_steps(forward: Forward, steps: range, ridge: float | None) -> Iterator[Operator]:
    """Yield the operators of all decode steps, grouped."""

    def at(index: int, attended: int) -> Operator:
        return replace(forward, attended=attended).operators()[index]

    ends = (replace(forward, attended=attended).operators() for attended in (steps[0], steps[-1]))
    for index, (first, last) in enumerate(zip(*ends, strict=True)):
        if first == last:
            yield first.model_copy(update={"count": first.count * len(steps)})
        else:
            yield from _grouped(partial(at, index), steps, ridge)


def _grouped(at: Callable[[int], Operator], steps: range, ridge: float | None) -> Iterator[Operator]:
    """Yield an operator whose amounts grow with the tokens attended: the middle steps of groups of odd length."""
    crossing = 0
    if ridge is not None:  # intensity grows too, so the steps short of the ridge come first
        crossing = bisect_left(steps, True, key=lambda attended: at(attended).flops >= ridge * at(attended).memory_bytes)
    for side in (steps[:crossing], steps[crossing:]):
        odd = (len(side) - 1) // 2 * 2 + 1
        for group in filter(None, (side[:odd], side[odd:])):
            middle = at(group[len(group) // 2])
            yield middle.model_copy(update={"count": middle.count * len(group)})

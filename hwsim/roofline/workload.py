"""What is done, without saying on what: operators with their arithmetic and their memory traffic, and what must be held.

Nothing is fused and nothing is kept in caches between operators; every operator reads its operands and writes its results.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ...core.options import Options

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
"""What arithmetic is done in; selects the peak rate of a device."""

_MOST = 2**63 - 1
Amount = Annotated[int, Field(ge=0, le=_MOST)]


class Operator(Options):
    """Equal operators of a workload, as many as `count`; amounts are those of one of them."""

    name: str
    """Which one: `q_proj`, or the ATen operator it is."""
    phase: Literal["inference", "forward", "backward", "optimizer", "prefill", "decode"] = "inference"
    """When it runs."""
    count: Annotated[int, Field(ge=1, le=_MOST)] = 1
    """How often it runs."""
    flops: Amount = 0
    """Floating-point (or integer) operations; a multiply-add is two."""
    load_weight_bytes: Amount = 0
    """Parameters read."""
    load_act_bytes: Amount = 0
    """Everything else that is read, but the KV cache."""
    store_act_bytes: Amount = 0
    """Everything that is written, but the KV cache."""
    load_kv_bytes: Amount = 0
    """KV cache read."""
    store_kv_bytes: Amount = 0
    """KV cache written."""
    link_bytes: Amount = 0
    """Bytes that each device sends to its peers (tensor parallelism)."""

    @property
    def memory_bytes(self) -> int:
        """Bytes between processor and memory."""
        return self.load_weight_bytes + self.load_act_bytes + self.store_act_bytes + self.load_kv_bytes + self.store_kv_bytes


class Footprint(Options):
    """What must be in memory at once, in bytes."""

    weights_bytes: Amount = 0
    gradients_bytes: Amount = 0
    """Of all parameters; under DP-SGD of every sample too."""
    optimizer_bytes: Amount = 0
    activations_bytes: Amount = 0
    """What backward needs of forward; without training, the largest operator's results."""
    kv_bytes: Amount = 0
    inputs_bytes: Amount = 0

    @model_validator(mode="after")
    def _can_be_summed(self) -> Footprint:
        if self.total_bytes > _MOST:
            raise ValueError("sum of all bytes exceeds 2^63 - 1")
        return self

    @property
    def total_bytes(self) -> int:
        """Sum of all."""
        return sum(dict(self).values())


class Workload(Options):
    """Operators in the order of their first run, and what they need in memory."""

    operators: Annotated[tuple[Operator, ...], Field(min_length=1, max_length=100_000)]
    footprint: Footprint = Footprint()
    precision: Precision = "fp32"
    """What its arithmetic is done in."""
    uncounted: tuple[str, ...] = ()
    """Operators that do arithmetic nobody could count."""

    @field_validator("operators")
    @classmethod
    def _can_be_summed(cls, operators: tuple[Operator, ...]) -> tuple[Operator, ...]:
        for amount in ("flops", "memory_bytes", "link_bytes"):
            if sum(op.count * getattr(op, amount) for op in operators) > _MOST:
                raise ValueError(f"{amount} of all operators exceed 2^63 - 1")
        return operators

    @property
    def flops(self) -> int:
        """Operations of all operators."""
        return sum(op.count * op.flops for op in self.operators)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all operators."""
        return sum(op.count * op.memory_bytes for op in self.operators)

"""Operators of one forward pass of a transformer, with the arithmetic and the traffic of each.

Source: Yuan et al., arXiv:2402.16363, section 3, and their program LLM-Viewer at commit 472f71f, whose slips are mended here
and kept in `viewer`. What is ours: biases, norm weights, embedding and final norm, tensor parallelism.

Scores are computed in full, as eager attention does: masked ones count too.

Letters of the formulas: b = batch, q = new tokens of a sequence, s = tokens each of them attends, h = hidden size,
H = heads, K = heads of keys and values, d = head size, V = vocabulary; all heads, intermediate sizes and vocabularies are
those of one device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from .architecture import Architecture
from .workload import Footprint, Operator


def packed(rows: int, width: int, bits: int) -> int:
    """Return the bytes of a matrix whose every row starts at a whole byte."""
    return rows * -(-width * bits // 8)


@dataclass(frozen=True)
class Forward:
    """`queries` new tokens of every sequence go through the model, and each attends `attended` tokens.

    Attributes
    ----------
    phase : {"prefill", "decode"}
        A decode step has one query, whose keys and values are attended too.
    devices : int
        Degree of tensor parallelism. Heads, MLP and vocabulary are split (Megatron-LM, arXiv:1909.08053, section 3); norms,
        residual stream and embedding are on every device. Amounts are those of one device.
    buffer_bytes : int or None
        On-chip buffer that fused attention tiles for; None where attention is not fused.
    """

    architecture: Architecture
    phase: Literal["prefill", "decode"]
    batch: int
    queries: int
    attended: int
    weight_bits: int
    activation_bits: int
    kv_bits: int
    devices: int = 1
    buffer_bytes: int | None = None

    own: ClassVar[int] = 1
    """Tokens that a decode step attends beyond those before it: itself."""

    @property
    def heads(self) -> int:
        """H, on one device."""
        return self.architecture.heads // self.devices

    @property
    def kv_heads(self) -> int:
        """K, on one device; where devices outnumber them, several hold the same head."""
        return max(1, self.architecture.kv_heads // self.devices)

    @property
    def intermediate_size(self) -> int:
        """Width inside the MLP, on one device."""
        return self.architecture.intermediate_size // self.devices

    @property
    def vocab_size(self) -> int:
        """V, on one device, padded to equal shares."""
        return -(-self.architecture.vocab_size // self.devices)

    @property
    def gated(self) -> bool:
        """The MLP has a gate."""
        return self.architecture.gated

    def operators(self) -> list[Operator]:
        """Return all operators in order, those of the blocks counted once a layer."""
        layers = self.architecture.layers
        return [*self.entry(), *(op.model_copy(update={"count": layers}) for op in self.block()), *self.exit()]

    def footprint(self) -> Footprint:
        """Return what must be in memory during the pass: parameters, KV cache, activations."""
        cached_layers = self.architecture.layers if self.architecture.decoder else 1
        return Footprint(
            weights_bytes=self.weights_bytes(),
            activations_bytes=self.activations_bytes(),
            kv_bytes=cached_layers * 2 * self._kv(self.batch * self.attended),
        )

    def weights_bytes(self) -> int:
        """All parameters; a tied output layer is a part of the embedding."""
        arch = self.architecture
        total = arch.layers * sum(op.load_weight_bytes for op in self.block())
        total += sum(op.load_weight_bytes for op in self.exit() if not (arch.tied and op.name == "lm_head"))
        return total + packed(arch.vocab_size + arch.position_rows, arch.hidden_size, self.weight_bits)

    def activations_bytes(self) -> int:
        """Operands and results of the operator that has most of them, and the residual stream beside them."""
        largest = max(op.load_act_bytes + op.store_act_bytes for op in self.operators())
        return largest + self._acts(self.batch * self.queries, self.architecture.hidden_size)

    def entry(self) -> list[Operator]:
        """Token embedding: one row of each table a token."""
        arch, rows = self.architecture, self.batch * self.queries
        if not arch.vocab_size:
            return []
        tables = 2 if arch.position_rows else 1
        return [
            self._operator(
                "embed",
                load_weight_bytes=packed(tables * rows, arch.hidden_size, self.weight_bits),
                store_act_bytes=self._acts(rows, arch.hidden_size),
            )
        ]

    def block(self) -> list[Operator]:
        """One block."""
        arch = self.architecture
        attended_width = self.heads * arch.head_size
        return [
            self.norm("attn_norm"),
            self.linear("q_proj", arch.hidden_size, attended_width),
            self.linear("k_proj", arch.hidden_size, self.kv_heads * arch.head_size, cached=True),
            self.linear("v_proj", arch.hidden_size, self.kv_heads * arch.head_size, cached=True),
            *(self.eager_attention() if self.buffer_bytes is None else [self.fused_attention(self.buffer_bytes)]),
            self.linear("out_proj", attended_width, arch.hidden_size),
            *self.all_reduce("attn_all_reduce"),
            self.residual("attn_add"),
            self.norm("mlp_norm"),
            *([self.linear("gate_proj", arch.hidden_size, self.intermediate_size)] if self.gated else []),
            self.linear("up_proj", arch.hidden_size, self.intermediate_size),
            self.activation(),
            self.linear("down_proj", self.intermediate_size, arch.hidden_size),
            *self.all_reduce("mlp_all_reduce"),
            self.residual("mlp_add"),
        ]

    def exit(self) -> list[Operator]:
        """Final norm of all tokens, output layer of the last one of each sequence: 2 b h V."""
        arch = self.architecture
        if not arch.vocab_size:
            return []
        logits_bytes = self._acts(self.batch, self.vocab_size)
        head = self._operator(
            "lm_head",
            flops=2 * self.batch * arch.hidden_size * self.vocab_size,
            load_weight_bytes=packed(self.vocab_size, arch.hidden_size, self.weight_bits),
            load_act_bytes=self._acts(self.batch, arch.hidden_size),
            store_act_bytes=logits_bytes,
        )
        gathered = (self.devices - 1) * logits_bytes
        return [
            self.norm("final_norm"),
            head,
            *([self._operator("logits_all_gather", link_bytes=gathered)] if self.devices > 1 else []),
        ]

    def linear(self, name: str, inputs: int, outputs: int, *, cached: bool = False) -> Operator:
        """2 b q times inputs times outputs; results are activations, or go to the KV cache."""
        rows = self.batch * self.queries
        return self._operator(
            name,
            flops=2 * rows * inputs * outputs,
            load_weight_bytes=packed(outputs, inputs, self.weight_bits)
            + (packed(1, outputs, self.weight_bits) if self.architecture.biases else 0),
            load_act_bytes=self._acts(rows, inputs),
            store_act_bytes=0 if cached else self._acts(rows, outputs),
            store_kv_bytes=packed(rows, outputs, self.kv_bits) if cached else 0,
        )

    def eager_attention(self) -> list[Operator]:
        """Scores 2 b q s d H, softmax 5 b q s H, values 2 b q s d H; the scores go through memory."""
        return [self.scores(), self.softmax(), self.values()]

    def scores(self) -> Operator:
        """Queries times keys."""
        return self._operator(
            "qk_matmul",
            flops=2 * self.batch * self.queries * self.attended * self.architecture.head_size * self.heads,
            load_act_bytes=self._queries_bytes(),
            store_act_bytes=self._scores_bytes(),
            load_kv_bytes=self._kv(self.batch * self.attended),
        )

    def softmax(self) -> Operator:
        """Maximum, difference, exponential, sum, quotient."""
        return self._operator(
            "softmax",
            flops=5 * self.batch * self.queries * self.attended * self.heads,
            load_act_bytes=self._scores_bytes(),
            store_act_bytes=self._scores_bytes(),
        )

    def values(self) -> Operator:
        """Scores times values."""
        return self._operator(
            "sv_matmul",
            flops=2 * self.batch * self.queries * self.attended * self.architecture.head_size * self.heads,
            load_act_bytes=self._scores_bytes(),
            store_act_bytes=self._queries_bytes(),
            load_kv_bytes=self._kv(self.batch * self.attended),
        )

    def fused_attention(self, buffer_bytes: int) -> Operator:
        """All three, by blocks of queries; every block reads all keys and values, and the scores stay on the chip.

        The size of a block is LLM-Viewer's: as many rows as the buffer holds, at most d, after FlashAttention (Dao et al.,
        arXiv:2205.14135, algorithm 1). Its author says that it should be tuned for each device (LLM-Viewer's issue 16).
        """
        head_size = self.architecture.head_size
        block_rows = min(math.ceil(buffer_bytes * 8 / (self.kv_bits * head_size)), head_size)
        return self._operator(
            "fused_attention",
            flops=sum(op.flops for op in self.eager_attention()),
            load_act_bytes=self._queries_bytes(),
            store_act_bytes=self._queries_bytes(),
            load_kv_bytes=2 * -(-self.queries // block_rows) * self._kv(self.batch * self.attended),
        )

    def norm(self, name: str) -> Operator:
        """7 b q h: sum, difference, power, sum, quotient, scale, shift."""
        arch, rows = self.architecture, self.batch * self.queries
        return self._operator(
            name,
            flops=7 * rows * arch.hidden_size,
            load_weight_bytes=packed(1, arch.norm_parameters, self.weight_bits),
            load_act_bytes=self._acts(rows, arch.hidden_size),
            store_act_bytes=self._acts(rows, arch.hidden_size),
        )

    def residual(self, name: str) -> Operator:
        """Sum of two streams: b q h."""
        rows, width = self.batch * self.queries, self.architecture.hidden_size
        return self._operator(
            name,
            flops=rows * width,
            load_act_bytes=2 * self._acts(rows, width),
            store_act_bytes=self._acts(rows, width),
        )

    def activation(self) -> Operator:
        """One operation an operand and element: the activation, and with a gate the product with a second operand."""
        rows, operands = self.batch * self.queries, 2 if self.gated else 1
        return self._operator(
            "mlp_act",
            flops=operands * rows * self.intermediate_size,
            load_act_bytes=operands * self._acts(rows, self.intermediate_size),
            store_act_bytes=self._acts(rows, self.intermediate_size),
        )

    def all_reduce(self, name: str) -> list[Operator]:
        """Ring of n devices: each sends 2 (n - 1) / n of the message, b q h."""
        if self.devices == 1:
            return []
        message_bytes = self._acts(self.batch * self.queries, self.architecture.hidden_size)
        return [self._operator(name, link_bytes=-(-2 * (self.devices - 1) * message_bytes // self.devices))]

    def _operator(self, name: str, **amounts: int) -> Operator:
        return Operator(name=name, phase=self.phase, **amounts)

    def _acts(self, rows: int, width: int) -> int:
        return packed(rows, width, self.activation_bits)

    def _kv(self, rows: int) -> int:
        """Keys of so many tokens, or values."""
        return packed(rows, self.kv_heads * self.architecture.head_size, self.kv_bits)

    def _queries_bytes(self) -> int:
        return self._acts(self.batch * self.queries, self.heads * self.architecture.head_size)

    def _scores_bytes(self) -> int:
        return self._acts(self.batch * self.queries * self.attended, self.heads)

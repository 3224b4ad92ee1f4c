"""LLM-Viewer's numbers at commit 472f71f, slips included: each method here is one that `transformer` mends, or a few.

Kept so that its published figures, and figures of others that rest on it, can be reproduced and compared.
"""

from __future__ import annotations

from typing import ClassVar

from .transformer import Forward, packed
from .workload import Operator


class ViewerForward(Forward):
    """A forward pass as LLM-Viewer counts it, on one device."""

    own: ClassVar[int] = 0
    """A decode step does not attend itself."""

    @property
    def gated(self) -> bool:
        """Every decoder is given a gate, OPT's MLP too, which has none."""
        return self.architecture.gated or self.architecture.decoder

    def weights_bytes(self) -> int:
        """Matrices of the blocks; no embedding, no output layer."""
        return self.architecture.layers * sum(op.load_weight_bytes for op in self.block())

    def activations_bytes(self) -> int:
        """Results of all operators of one block, as if none were freed; not those of the output layer."""
        return sum(op.store_act_bytes for op in self.block())

    def entry(self) -> list[Operator]:
        """No embedding."""
        return []

    def exit(self) -> list[Operator]:
        """No final norm; of the output layer half the operations, and the traffic of a batch of 1."""
        vocab_size, hidden_size = self.architecture.vocab_size, self.architecture.hidden_size
        if not vocab_size:
            return []
        return [
            self._operator(
                "lm_head",
                flops=self.batch * hidden_size * vocab_size,
                load_weight_bytes=packed(vocab_size, hidden_size, self.weight_bits),
                load_act_bytes=self._acts(1, hidden_size),
                store_act_bytes=self._acts(1, vocab_size),
            )
        ]

    def linear(self, name: str, inputs: int, outputs: int, *, cached: bool = False) -> Operator:
        """No bias."""
        op = super().linear(name, inputs, outputs, cached=cached)
        return op.model_copy(update={"load_weight_bytes": packed(outputs, inputs, self.weight_bits)})

    def scores(self) -> Operator:
        """A prefill reads only as many heads of queries as there are of keys."""
        op = super().scores()
        if self.phase == "decode":
            return op
        read = self._acts(self.batch * self.queries, self.kv_heads * self.architecture.head_size)
        return op.model_copy(update={"load_act_bytes": read})

    def fused_attention(self, buffer_bytes: int) -> Operator:
        """Stores, twice, results of s elements instead of d; reads keys and values for every head of queries."""
        op = super().fused_attention(buffer_bytes)
        return op.model_copy(
            update={
                "store_act_bytes": 2 * self._scores_bytes(),
                "load_kv_bytes": op.load_kv_bytes * self.heads // self.kv_heads,
            }
        )

    def norm(self, name: str) -> Operator:
        """No weights."""
        return super().norm(name).model_copy(update={"load_weight_bytes": 0})

    def residual(self, name: str) -> Operator:
        """One operand."""
        op = super().residual(name)
        return op.model_copy(update={"load_act_bytes": op.store_act_bytes})

    def activation(self) -> Operator:
        """On the hidden size instead of the intermediate one; two operands even without a gate."""
        rows, width = self.batch * self.queries, self.architecture.hidden_size
        return self._operator(
            "mlp_act",
            flops=2 * rows * width,
            load_act_bytes=2 * self._acts(rows, width),
            store_act_bytes=self._acts(rows, width),
        )

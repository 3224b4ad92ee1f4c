"""Plugins for self-attention: small modules that change keys and values and stay on the client (FedPerfix).

Source: Sun et al., "FedPerfix: Towards Partial Model Personalization of Vision Transformers in Federated Learning",
arXiv:2308.09160, eqs. 4-6. The paper's equations 4 and 5 concatenate; the published code, and so the published numbers, *add*.
`add` is that code, `concat` the equations read literally, `vector` the classical prefix-tuning (Li & Liang,
arXiv:2101.00190) of the paper's figure 2(b). Ours: the `zero` initialisation and the range of the `vector` rows.

With s the scale, A_k and A_v the halves of one adapter ``Linear(D, R) -> tanh -> Linear(R, 2D)`` on the attention's input x:

    add     k + s A_k(x),  v + s A_v(x)           N keys
    concat  [s A_k(x); k], [s A_v(x); v]          2N keys
    vector  [s P_k; k],    [s P_v; v]             M + N keys

In `concat` and `vector`, with P the prepended rows, each head of each query is a mixture (eq. 6):
``(1 - lam) Attn(q, k, v) + lam Attn(q, P_k, P_v)``, lam the share of the softmax's mass that falls on P.

Shapes: B = batch, N = tokens, D = model width, R = adapter rank, M = prepended rows.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ...core.options import Options


class PluginOptions(Options):
    """What `[model.plugin]` accepts. Defaults but for the rank are the published code's (its rank is 256 at width 384)."""

    mode: Literal["add", "concat", "vector"] = "add"
    """How keys and values change; `add` is the published code's."""
    rank: Annotated[int, Ge(1)] = 16
    """Inner width of the adapter, in `add` and `concat`."""
    scale: float = 1.5
    """Factor s on what the plugin gives; in `add`, 0 makes it the base model."""
    depth: Annotated[int, Ge(1)] | None = None
    """How many of the last blocks carry a plugin; absent: all."""
    tokens: Annotated[int, Ge(1)] = 16
    """Rows prepended to keys and to values, in `vector`."""
    init: Literal["default", "zero"] = "default"
    """`zero` starts the adapter's second layer, or the rows, at zero; in `add` training then starts from the base model."""

    def build(self, dim: int) -> Plugin:
        """Build the plugin of one attention layer of width `dim`."""
        modes: dict[str, type[Plugin]] = {"add": AddedAdapter, "concat": ConcatenatedAdapter, "vector": PrependedRows}
        return modes[self.mode](self, dim)


class Plugin(nn.Module):
    """What attention carries: a map from its input, keys and values to new keys and values.

    Parameters
    ----------
    options : PluginOptions
        Rank or rows, scale, initialisation.
    dim : int
        Width D of the attention layer.
    """

    def __init__(self, options: PluginOptions, dim: int) -> None:
        super().__init__()
        self.options, self.dim = options, dim

    @abstractmethod
    def forward(self, x_BND: Tensor, k_BND: Tensor, v_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return new keys and values, of the same or of more tokens."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's generator."""


class Adapter(Plugin):
    """The adapter of eq. 4 for keys and values at once, ``Linear(D, R) -> tanh -> Linear(R, 2D)``, with PyTorch weights."""

    def __init__(self, options: PluginOptions, dim: int) -> None:
        super().__init__(options, dim)
        self.down = nn.Linear(dim, options.rank)
        self.up = nn.Linear(options.rank, 2 * dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's generator."""
        self.down.reset_parameters()
        self.up.reset_parameters()
        if self.options.init == "zero":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def prefix(self, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return s A_k(x) and s A_v(x), each of shape (B, N, D)."""
        k_BND, v_BND = (self.options.scale * self.up(torch.tanh(self.down(x_BND)))).chunk(2, dim=-1)
        return k_BND, v_BND


class AddedAdapter(Adapter):
    """Mode `add`: a low-rank, non-linear change of every token's key and value."""

    def forward(self, x_BND: Tensor, k_BND: Tensor, v_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return k + s A_k(x) and v + s A_v(x)."""
        prefix_k_BND, prefix_v_BND = self.prefix(x_BND)
        return k_BND + prefix_k_BND, v_BND + prefix_v_BND


class ConcatenatedAdapter(Adapter):
    """Mode `concat`: N keys and values of the adapter's own stand before the N of the base."""

    def forward(self, x_BND: Tensor, k_BND: Tensor, v_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return [s A_k(x); k] and [s A_v(x); v], each of 2N tokens."""
        prefix_k_BND, prefix_v_BND = self.prefix(x_BND)
        return torch.cat([prefix_k_BND, k_BND], dim=1), torch.cat([prefix_v_BND, v_BND], dim=1)


class PrependedRows(Plugin):
    """Mode `vector`: M learnable rows, the same for every image; uniform in +-1/sqrt(D), the range of ``Linear(D, .)``."""

    def __init__(self, options: PluginOptions, dim: int) -> None:
        super().__init__(options, dim)
        self.k_MD = nn.Parameter(torch.empty(options.tokens, dim))
        self.v_MD = nn.Parameter(torch.empty(options.tokens, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the rows anew from torch's generator."""
        bound = 0.0 if self.options.init == "zero" else self.dim**-0.5
        nn.init.uniform_(self.k_MD, -bound, bound)
        nn.init.uniform_(self.v_MD, -bound, bound)

    def forward(self, x_BND: Tensor, k_BND: Tensor, v_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return [s P_k; k] and [s P_v; v], each of M + N tokens."""
        k_BMD, v_BMD = ((self.options.scale * rows_MD).expand(len(x_BND), -1, -1) for rows_MD in (self.k_MD, self.v_MD))
        return torch.cat([k_BMD, k_BND], dim=1), torch.cat([v_BMD, v_BND], dim=1)

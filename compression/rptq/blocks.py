"""The transformer blocks of a model, by the names of their layers: where RPTQ's five sites are, and what may be reordered.

Sites R1 to R5 are those of RPTQ's published code. Ours: architectures other than OPT. One table tells how a kind of block
names its layers; a fused projection is a range of a layer's outputs, a `Conv1D` of GPT-2 a layer whose weight is transposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from torch import Tensor, nn

from ...core.errors import SpecError

SiteKind = str
"""Where activations are quantised: attention_in (R1), q and k (R2), v and context (R3), mlp_in (R4), hidden (R5)."""


@dataclass(frozen=True)
class Rows:
    """Consecutive outputs of a layer."""

    layer: str
    first: int
    count: int


@dataclass(frozen=True)
class Pattern:
    """How a kind of block names its parts, relative to itself.

    Attributes
    ----------
    qkv : tuple of str
        Three layers, or one that gives queries, keys and values, in this order.
    up : tuple of str
        Layers that read the MLP's input, the gate first where there is one.
    norms : tuple of str
        Normalisations before attention and before the MLP, in a block that normalises what its branches read.
    heads : str
        Attribute of the module `attention` that tells the number of heads.
    rotary : bool
        Queries and keys are rotated by position, in pairs of channels.
    """

    attention: str
    qkv: tuple[str, ...]
    out: str
    up: tuple[str, ...]
    down: str
    norms: tuple[str, str]
    heads: str = "num_heads"
    rotary: bool = False


PATTERNS: dict[str, Pattern] = {
    "Block": Pattern("attention", ("attention.qkv",), "attention.proj", ("mlp.up",), "mlp.down", ("norm1", "norm2"), "heads"),
    "OPTDecoderLayer": Pattern(
        "self_attn",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.out_proj",
        ("fc1",),
        "fc2",
        ("self_attn_layer_norm", "final_layer_norm"),
    ),
    "BertLayer": Pattern(
        "attention.self",
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
        ("", ""),
        "num_attention_heads",
    ),
    "GPT2Block": Pattern("attn", ("attn.c_attn",), "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj", ("ln_1", "ln_2")),
    "LlamaDecoderLayer": Pattern(
        "self_attn",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
        ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
        ("input_layernorm", "post_attention_layernorm"),
        "config.num_attention_heads",
        rotary=True,
    ),
}
"""By class name of the block: of fedcosim's ViT, and of transformers' OPT, BERT, GPT-2 and Llama."""


@dataclass(frozen=True)
class Block:
    """One transformer block; all names are absolute.

    Attributes
    ----------
    heads, kv_heads : int
        Query heads, and key and value heads, which divide them: with fewer, consecutive query heads share one.
    norms : tuple of str
        Normalisations whose outputs nothing but the branch reads; empty in a block that normalises its sums, whose
        normalised values are the residual stream itself.
    reorderable : bool
        Nothing comes between keys and values and the attention that reads them (a plugin does).
    """

    name: str
    q: Rows
    k: Rows
    v: Rows
    out: str
    up: tuple[str, ...]
    down: str
    norms: tuple[str, ...]
    heads: int
    kv_heads: int
    rotary: bool
    reorderable: bool

    @property
    def layers(self) -> tuple[str, ...]:
        """The linear layers, in the order of computation, each once."""
        return tuple(dict.fromkeys((self.q.layer, self.k.layer, self.v.layer, self.out, *self.up, self.down)))

    @property
    def readers(self) -> dict[SiteKind, tuple[str, ...]]:
        """The layers whose input a site is."""
        attention = tuple(dict.fromkeys(rows.layer for rows in (self.q, self.k, self.v)))
        return {"attention_in": attention, "context": (self.out,), "mlp_in": self.up, "hidden": (self.down,)}


def is_transposed(layer: nn.Module) -> bool:
    """Tell whether a layer's weight has inputs as rows (transformers' `Conv1D`)."""
    return type(layer).__name__ == "Conv1D"


def weight_oi(layer: nn.Module) -> Tensor:
    """Return a linear layer's weight with outputs as rows; a view."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if is_transposed(layer) else weight.detach()


def blocks(module: nn.Module) -> list[Block]:
    """Return a model's transformer blocks, in the order of computation.

    Raises
    ------
    SpecError
        If it has none of a kind that is known.
    """
    found = [_block(name, part) for name, part in module.named_modules() if _fits(part)]
    if not found:
        raise SpecError(
            f"{type(module).__name__}: has no transformer block, so no activations that rptq could quantise; "
            f"it knows {', '.join(PATTERNS)}"
        )
    return found


def _fits(part: nn.Module) -> bool:
    """Tell whether a module is a block of a kind that is known: the class's name, and layers where they should be."""
    pattern = PATTERNS.get(type(part).__name__)
    inside = dict(part.named_modules())
    return pattern is not None and all(name in inside for name in (*pattern.qkv, pattern.out, *pattern.up, pattern.down))


def _block(name: str, part: nn.Module) -> Block:
    pattern = PATTERNS[type(part).__name__]
    attention = part.get_submodule(pattern.attention)

    def absolute(relative: str) -> str:
        return f"{name}.{relative}".lstrip(".")

    q, k, v = (Rows(absolute(rows.layer), rows.first, rows.count) for rows in _projections(part, pattern.qkv))
    heads = attrgetter(pattern.heads)(attention)
    kv_heads = k.count * heads // q.count
    post = type(part).__name__ == "BertLayer" or not getattr(part, "do_layer_norm_before", True)
    return Block(
        name,
        q,
        k,
        v,
        absolute(pattern.out),
        tuple(map(absolute, pattern.up)),
        absolute(pattern.down),
        () if post else tuple(map(absolute, pattern.norms)),
        heads,
        kv_heads,
        pattern.rotary,
        getattr(attention, "plugin", None) is None,
    )


def _projections(part: nn.Module, names: tuple[str, ...]) -> list[Rows]:
    counts = [len(weight_oi(part.get_submodule(name))) for name in names]
    if len(names) == 3:
        return [Rows(name, 0, count) for name, count in zip(names, counts, strict=True)]
    third = counts[0] // 3
    return [Rows(names[0], n * third, third) for n in range(3)]


def outside(module: nn.Module, known: list[Block]) -> list[str]:
    """Return the weights of more than one dimension that no block's layer has: what stays as it is, to be told of."""
    inside = {f"{layer}.weight" for block in known for layer in block.layers}
    return [name for name, x in module.named_parameters() if x.ndim > 1 and name not in inside]

"""The ViT against an independent implementation, the plugins against the paper's equations, and the published sizes.

Shapes: B = batch, N = tokens, D = width, E = heads, X = D / E, Q = queries, S = keys.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ViTConfig, ViTModel

from fedcosim.clients.models import MODELS, initialise
from fedcosim.clients.models.locality import split
from fedcosim.clients.models.plugin import PluginOptions
from fedcosim.clients.models.vit import Attention, VitOptions

DIM, HEADS = 24, 3


@pytest.fixture(name="x_BND")
def tokens():
    return torch.randn(5, 7, DIM, generator=torch.Generator().manual_seed(1))


def attention(**plugin):
    """One attention layer with random weights, `plugin` attached if any option is given."""
    torch.manual_seed(2)
    layer = Attention(DIM, HEADS)
    if plugin:
        layer.plugin = PluginOptions(**plugin).build(DIM)
    return layer


def heads(t_BND):
    """(B, N, D) to a list of E tensors (B, N, X)."""
    width = DIM // HEADS
    return [t_BND[..., e * width : (e + 1) * width] for e in range(HEADS)]


def softmax_attention(q_BQX, k_BSX, v_BSX):
    """Softmax(q k / sqrt(X)) v, spelled out."""
    weight_BQS = torch.exp(torch.einsum("bqx,bsx->bqs", q_BQX, k_BSX) / math.sqrt(q_BQX.shape[-1]))
    return torch.einsum("bqs,bsx->bqx", weight_BQS / weight_BQS.sum(-1, keepdim=True), v_BSX)


def base_qkv(layer, x_BND):
    """Queries, keys and values from the three thirds of the fused weights."""
    weights, biases = layer.qkv.weight.split(DIM), layer.qkv.bias.split(DIM)
    return [torch.einsum("bnd,od->bno", x_BND, weight) + bias for weight, bias in zip(weights, biases, strict=True)]


def adapter(plugin, x_BND):
    """The adapter's half for keys and half for values, unscaled."""
    hidden_BNR = torch.tanh(torch.einsum("bnd,rd->bnr", x_BND, plugin.down.weight) + plugin.down.bias)
    out_BNd = torch.einsum("bnr,or->bno", hidden_BNR, plugin.up.weight) + plugin.up.bias
    return out_BNd[..., :DIM], out_BNd[..., DIM:]


def prefix_rows(layer, x_BND):
    """Unscaled rows that `concat` or `vector` prepends to keys and values."""
    if layer.plugin.options.mode == "concat":
        return adapter(layer.plugin, x_BND)
    return layer.plugin.k_MD.expand(len(x_BND), -1, -1), layer.plugin.v_MD.expand(len(x_BND), -1, -1)


def project(layer, per_head):
    return F.linear(torch.cat(per_head, -1), layer.proj.weight, layer.proj.bias)


def test_attention_without_plugin_is_softmax_attention(x_BND):
    layer = attention()
    q, k, v = (heads(t) for t in base_qkv(layer, x_BND))
    expected = project(layer, [softmax_attention(*qkv) for qkv in zip(q, k, v, strict=True)])
    torch.testing.assert_close(layer(x_BND), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.5, -0.4, 0.0])
def test_add_is_attention_with_changed_keys_and_values(x_BND, scale):
    layer = attention(mode="add", rank=6, scale=scale)
    q, k, v = base_qkv(layer, x_BND)
    delta_k, delta_v = adapter(layer.plugin, x_BND)
    triples = zip(heads(q), heads(k + scale * delta_k), heads(v + scale * delta_v), strict=True)
    expected = project(layer, [softmax_attention(*triple) for triple in triples])
    torch.testing.assert_close(layer(x_BND), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"mode": "concat", "rank": 6}, {"mode": "vector", "tokens": 4}], ids=["concat", "vector"])
@pytest.mark.parametrize("scale", [1.5, 0.0])
def test_prepending_mixes_two_attentions_by_softmax_mass(x_BND, options, scale):
    """Equation 6: head(x) = (1 - lam) Attn(q, k, v) + lam Attn(q, P_k, P_v), lam per query and head."""
    layer = attention(scale=scale, **options)
    q, k, v = (heads(t) for t in base_qkv(layer, x_BND))
    prefix_k, prefix_v = (heads(scale * rows) for rows in prefix_rows(layer, x_BND))
    mixed = []
    for e in range(HEADS):
        mass_base, mass_prefix = (
            torch.exp(torch.einsum("bqx,bsx->bqs", q[e], keys) / math.sqrt(q[e].shape[-1])).sum(-1, keepdim=True)
            for keys in (k[e], prefix_k[e])
        )
        lam = mass_prefix / (mass_prefix + mass_base)
        assert ((lam > 0) & (lam < 1)).all()
        attended = softmax_attention(q[e], k[e], v[e]), softmax_attention(q[e], prefix_k[e], prefix_v[e])
        mixed.append((1 - lam) * attended[0] + lam * attended[1])
    torch.testing.assert_close(layer(x_BND), project(layer, mixed), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["add", "concat", "vector"])
def test_some_queries_get_what_they_get_among_all(x_BND, mode):
    layer = attention(mode=mode)
    torch.testing.assert_close(layer(x_BND, slice(2, 4)), layer(x_BND)[:, 2:4])


def small_vit(**changes):
    options = MODELS.parse({"name": "vit", "dim": 16, "depth": 3, "heads": 4, "patch": 7, "mlp_ratio": 2.0, **changes})
    return initialise(options, (1, 28, 28), 10, seed=3)


def test_a_zero_adapter_added_is_the_base_model_exactly():
    x_BCHW = torch.rand(4, 1, 28, 28)
    assert torch.equal(small_vit(plugin={"init": "zero"})(x_BCHW), small_vit()(x_BCHW))
    assert not torch.equal(small_vit(plugin={"init": "default"})(x_BCHW), small_vit()(x_BCHW))


def test_scale_zero_trains_exactly_as_without_plugin():
    """FedPerfix with s = 0 is FedPer, to the bit (invariant I7)."""

    def trained(**changes):
        model = small_vit(**changes)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        data = torch.Generator().manual_seed(4)
        for _ in range(5):
            x_BCHW, y_B = torch.rand(6, 1, 28, 28, generator=data), torch.randint(10, (6,), generator=data)
            optimizer.zero_grad()
            F.cross_entropy(model(x_BCHW), y_B).backward()
            optimizer.step()
        return model.state_dict()

    plain, plugged, untrained = trained(), trained(plugin={"scale": 0.0}), small_vit(plugin={}).state_dict()
    assert all(torch.equal(plugged[key], plain[key]) for key in plain)
    assert all(torch.equal(plugged[key], untrained[key]) for key in plugged.keys() - plain.keys())
    assert not torch.equal(plain["blocks.0.attention.qkv.weight"], untrained["blocks.0.attention.qkv.weight"])


def test_plugin_depth_counts_from_the_last_block():
    plugged = [key.split(".")[1] for key in small_vit(plugin={"depth": 2}).state_dict() if key.endswith("plugin.up.bias")]
    assert plugged == ["1", "2"]


def test_state_dict_names_are_the_agreed_paths():
    """Locality patterns, records and checkpoints name these."""
    block = [
        *("norm1.weight", "norm1.bias", "attention.qkv.weight", "attention.qkv.bias"),
        *("attention.proj.weight", "attention.proj.bias"),
        *(f"attention.plugin.{layer}.{kind}" for layer in ("down", "up") for kind in ("weight", "bias")),
        *("norm2.weight", "norm2.bias", "mlp.up.weight", "mlp.up.bias", "mlp.down.weight", "mlp.down.bias"),
    ]
    expected = ["cls", "position", "embed.weight", "embed.bias"]
    expected += [f"blocks.{i}.{name}" for i in range(3) for name in block]
    expected += ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert list(small_vit(plugin={}).state_dict()) == expected


def test_logits_agree_with_transformers():
    """The same weights in Hugging Face's ViT, which embeds patches by convolution and computes every token to the end."""
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, image_size=28, patch_size=7,
        num_channels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-6, hidden_act="gelu",
    )  # fmt: skip
    theirs = ViTModel(config, add_pooling_layer=False).eval()
    ours = VitOptions(dim=64, depth=4, heads=4, patch=7, mlp_ratio=2.0).build((3, 28, 28), 10)
    with torch.no_grad():
        for parameter in theirs.parameters():  # theirs starts with zero biases and unit norms: nothing would show
            parameter.normal_(std=0.2)
        for name, parameter in ours.named_parameters():
            if not name.startswith("head"):
                parameter.copy_(from_transformers(theirs.state_dict(), name).reshape(parameter.shape))
        x_BCHW = torch.rand(3, 3, 28, 28)
        expected_BK = ours.head(theirs(x_BCHW).last_hidden_state[:, 0])
        torch.testing.assert_close(ours(x_BCHW), expected_BK, atol=1e-5, rtol=1e-5)


NAMES = {
    "embed.": "embeddings.patch_embeddings.projection.",
    "cls": "embeddings.cls_token",
    "position": "embeddings.position_embeddings",
    "blocks.": "layers.",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.proj": "attention.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
    "norm.": "layernorm.",
}


def from_transformers(state, name):
    """Their tensor for our parameter `name`."""
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    if "qkv" in name:
        return torch.cat([state[name.replace("qkv", f"{part}_proj")] for part in "qkv"])
    return state[name]


def vit_s(**plugin):
    options = VitOptions(dim=384, depth=12, heads=6, patch=16, plugin=PluginOptions(**plugin) if plugin else None)
    with torch.device("meta"):  # counting needs no numbers
        return options.build((3, 224, 224), 1000)


def count(model, keys):
    state = model.state_dict()
    return sum(state[key].numel() for key in keys)


def test_vit_small_has_the_published_sizes():
    """FedPerfix, table 2, with its M = 2^20 and 1000-class head: 21.03, 24.42, 20.66 and 13.89 M."""
    plain, plugged = vit_s(), vit_s(rank=256)
    assert count(plain, plain.state_dict()) == 22_050_664
    assert count(plugged, plugged.state_dict()) == 25_601_896
    assert count(plugged, split(plugged, ["head", "blocks.*.attention.plugin"])[0]) == 21_665_664
    assert count(plain, split(plain, ["head"])[0]) == 21_665_664
    assert count(plain, split(plain, ["head", "blocks.*.attention"])[0]) == 14_569_344
    assert count(plain, split(plain, ["head", "blocks.11"])[0]) == 19_891_200
    assert count(plain, split(plain, ["norm", "blocks.*.norm1", "blocks.*.norm2"])[0]) == 22_031_464


def test_patches_are_embedded_as_by_a_strided_convolution():
    model = initialise(VitOptions(dim=16, patch=4), (3, 8, 12), 5, seed=1)
    convolution = nn.Conv2d(3, 16, kernel_size=4, stride=4)
    x_BCHW = torch.rand(2, 3, 8, 12)
    with torch.no_grad():
        convolution.weight.copy_(model.embed.weight.reshape(16, 3, 4, 4))
        convolution.bias.copy_(model.embed.bias)
    torch.testing.assert_close(model.embed(model.unfold(x_BCHW)), convolution(x_BCHW).flatten(2).mT)

"""Quantised models of every kind: integers really are integers, clusters really are scopes, calibration is sequential."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformer_models import KINDS, inputs, outputs, transformer

from fedcosim.clients.models import MODELS, initialise
from fedcosim.compression import Calibration
from fedcosim.compression.rptq import Recipe, blocks, quantise
from fedcosim.compression.rptq.calibrate import watching
from fedcosim.compression.rptq.clusters import cluster, cluster_heads, permutation
from fedcosim.compression.rptq.quantiser import Quantiser
from fedcosim.compression.rptq.reorder import reorder
from fedcosim.compression.rptq.sites import KINDS as SITES
from fedcosim.compression.rptq.sites import ends, observed
from fedcosim.core.errors import CalibrationError, SpecError


def quantised(kind, bits, **fields):
    return quantise(Calibration(transformer(kind), [inputs(kind), inputs(kind, seed=1)]), Recipe(bits=bits, **fields))


def some_labels(model, block, clusters, seed=0):
    """Arbitrary labels for all sites: queries with keys, values with context."""
    generator = torch.Generator().manual_seed(seed)
    with watching(model, [site[0] for site in ends(block).values()]) as seen:
        outputs(model, inputs("vit" if "attention.qkv" in block.q.layer else "opt"))
    sizes = {kind: x.shape[1] for kind, x in observed(block, {end: torch.cat(x) for end, x in seen.items()}).items()}
    labels = {kind: torch.randint(0, clusters(size), (size,), generator=generator) for kind, size in sizes.items()}
    group = block.heads // block.kv_heads
    for shared, repeated in (("k", "q"), ("v", "context")):
        heads = labels[shared].reshape(block.kv_heads, -1)
        labels[repeated] = heads.repeat_interleave(group, 0).flatten()
    return labels


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("kind", KINDS)
def test_reordered_channels_change_nothing(kind, dtype, most):
    """Each of R1 to R5 alone and all together, for one cluster, one a channel, and some in between."""
    model = transformer(kind).to(dtype)
    x = inputs(kind)
    x = x.to(dtype) if x.is_floating_point() else x
    before = outputs(model, x)
    pairs = {"attention_in": ("attention_in",), "qk": ("q", "k"), "context": ("v", "context"), "mlp_in": ("mlp_in",)}
    pairs |= {"hidden": ("hidden",), "all": SITES}
    for clusters in (lambda n: 1, lambda n: 5, lambda n: n):
        labels = [some_labels(transformer(kind), block, clusters) for block in blocks(model)]
        for kinds in pairs.values():
            moved = copy.deepcopy(model)
            for block, of_block in zip(blocks(moved), labels, strict=True):
                reorder(moved, block, {site: of_block[site] for site in kinds})
            assert (outputs(moved, x) - before).abs().max() < most


def test_what_can_be_reordered_is_and_what_cannot_is_not():
    """Otherwise leaving everything in place would pass the test above."""
    plugged = MODELS.parse({"name": "vit", "dim": 32, "depth": 1, "heads": 4, "patch": 4, "plugin": {"mode": "add"}})
    for model, left in (
        (transformer("opt"), set()),
        (transformer("bert"), set()),
        (transformer("llama"), {"q", "k"}),
        (initialise(plugged, (1, 8, 8), 10, 0), {"q", "k", "v", "context"}),
    ):
        block = blocks(model)[0]
        before = {name: x.clone() for name, x in model.named_parameters() if name.startswith(block.name)}
        done = reorder(model, block, some_labels(model, block, lambda n: n, seed=3))
        assert done.keys() == set(SITES) - left
        changed = {name for name, x in model.named_parameters() if name in before and not torch.equal(x, before[name])}
        assert {f"{layer}.weight" for layer in (*block.up, block.down)} <= changed


def test_clusters_side_by_side_give_what_labels_give():
    """Labels on channels in the model's order are only another way to write reordered channels with one range a run."""
    model, x = transformer("opt"), inputs("opt")
    made = quantise(Calibration(model, [x]), Recipe(bits="W16A4", softmax_bits=16))
    moved = copy.deepcopy(model)
    for block in blocks(moved):
        labels = {}
        for kind, where in ends(block).items():
            labels[kind] = made.quantisers[where[0]].labels_c
        orders = reorder(moved, block, labels)
        for kind, where in ends(block).items():
            one, order_c = made.quantisers[where[0]], orders[kind]
            runs = Quantiser(one.labels_c[order_c], one.heads, one.scale_hk, one.zero_hk, one.bits)
            assert all((head.diff() >= 0).all() for head in runs.labels_c.chunk(one.heads))
            for layer, side in where:
                module = moved.get_submodule(layer)
                if side == "in":
                    module.register_forward_pre_hook(lambda _, args, q=runs: (q(args[0]),))
                else:
                    module.register_forward_hook(lambda _, args, y, q=runs: q(y))
    # a gather must come before the quantiser that acts on what it gathers: true for hooks of normalisations
    torch.testing.assert_close(outputs(moved, x), outputs(made.module, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_integers_of_the_promised_width(kind):
    """At most 2^b values a cluster; in paper mode 2^8 where a normalisation is read; keys and values only with KV."""
    for bits, mode, widths in (
        ("W16A4", "paper", {"attention_in": 8, "mlp_in": 8}),
        ("W16A3", "strict", {}),
        ("W16A3KV", "paper", dict.fromkeys(set(SITES) - {"k", "v"}, 16)),
    ):
        made = quantised(kind, bits, mode=mode)
        block = blocks(made.module.inner)[1]
        with watching(made.module.inner, [site[0] for site in ends(block).values()]) as seen:
            outputs(made.module, inputs(kind, 40, seed=7))
        at = observed(block, {end: torch.cat(x) for end, x in seen.items()})
        for site, x_tc in at.items():
            width = widths.get(site, Recipe(bits=bits).setting.activations)
            distinct = max(len(column.unique()) for column in x_tc.T)
            assert distinct <= 2**width or width == 16
            if width == 16:
                assert distinct > 2**4


def test_one_cluster_is_one_range_a_tensor_or_a_head_and_one_a_channel_is_per_channel():
    model, x = transformer("opt"), inputs("opt")
    block = blocks(model)[0]
    whole = quantise(Calibration(model, [x]), Recipe(bits="W16A4", clusters=(1, 1, 1, 1, 1)))
    tensor = quantise(Calibration(model, [x]), Recipe(bits="W16A4", granularity="tensor"))
    where = ends(block)
    for kind in ("attention_in",):
        assert torch.equal(whole.quantisers[where[kind][0]].scale_hk, tensor.quantisers[where[kind][0]].scale_hk)
    with watching(model, [where["q"][0]]) as seen:
        outputs(model, x)
    per_head = torch.cat(seen[where["q"][0]]).reshape(-1, block.heads, 32 // block.heads)
    spread_h = per_head.amax((0, 2)).clamp(min=0) - per_head.amin((0, 2)).clamp(max=0)
    torch.testing.assert_close(whole.quantisers[where["q"][0]].scale_hk[:, 0], spread_h / 15)
    most = quantise(Calibration(model, [x]), Recipe(bits="W16A4", clusters=(256, 256, 256, 256, 256)))
    channel = quantise(Calibration(model, [x]), Recipe(bits="W16A4", granularity="channel"))
    for kind in ("attention_in", "q", "k"):
        many, each = most.quantisers[where[kind][0]], channel.quantisers[where[kind][0]]
        assert torch.equal(many.scale_hk.flatten()[many.ids_c], each.scale_hk.flatten()[each.ids_c])
        assert torch.equal(many.zero_hk.flatten()[many.ids_c], each.zero_hk.flatten()[each.ids_c])


def test_blocks_are_calibrated_on_what_quantised_blocks_give():
    """The second block's ranges are those of its inputs after the first was quantised, not of the float model's."""
    model, x = transformer("opt"), inputs("opt")
    recipe = Recipe(bits="W2A2", mode="strict", granularity="tensor", rounding="rtn", softmax_bits=16)
    first, second = blocks(model)
    end = (second.q.layer, "in")
    half = quantise(Calibration(model, [x]), recipe, only=[first.name]).module
    scales = []
    for one, inner in ((half, half.inner), (model, model)):
        with watching(inner, [end]) as seen:
            outputs(one, x)
        x_tc = torch.cat(seen[end])
        scales.append(float((x_tc.max() - x_tc.min()) / 3))
    made = quantise(Calibration(model, [x]), recipe)
    assert float(made.quantisers[end].scale_hk) == pytest.approx(scales[0], rel=1e-5)
    assert scales[1] != pytest.approx(scales[0], rel=1e-3)


def test_clusters_are_stable_and_numbered_by_range():
    high_c = torch.tensor([1.0, 9.0, 1.1, 9.1, 30.0, 0.9])
    labels_c = cluster(torch.stack([high_c, -high_c], 1), 3)
    assert labels_c.tolist() == [0, 1, 0, 1, 2, 0]
    assert permutation(labels_c, 1).tolist() == [0, 2, 5, 1, 3, 4]
    assert permutation(labels_c, 2).tolist() == [0, 2, 1, 5, 3, 4]
    assert cluster(torch.ones(6, 2), 4).tolist() == [0] * 6
    assert cluster_heads(torch.stack([high_c, -high_c], 1), 2, 2).tolist() == [0, 1, 0, 0, 1, 0]


def test_few_channels_make_few_clusters_and_it_is_told():
    made = quantised("opt", "W4A4", clusters=(100, 4, 4, 4, 4))
    assert any("32 clusters for 100" in note for note in made.notes.values())


def test_the_model_is_left_as_it_was():
    model = transformer("opt").train()
    before = copy.deepcopy(model.state_dict())
    quantise(Calibration(model, [inputs("opt")]), Recipe(bits="W4A4"))
    assert model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())
    assert model.config._attn_implementation != "eager"


def test_matrices_outside_the_blocks_are_told_of():
    assert quantised("vit", "W4A4").untouched == ["position", "embed.weight", "head.weight"]


@pytest.mark.parametrize("metric", ["minmax", "ema", "percentile", "mse"])
def test_every_range_metric_gives_a_working_model(metric):
    """8 bits change a model little, whatever the metric; the two that clip, a little more."""
    model, x = transformer("opt"), inputs("opt", 32)
    made = quantise(Calibration(model, [x]), Recipe(bits="W8A8", ranges=metric))
    error = (outputs(made.module, x) - outputs(model, x)).norm() / outputs(model, x).norm()
    assert error < 0.05


def test_smoothing_moves_outliers_into_the_weights():
    """SmoothQuant alone changes nothing in floating point, and 8-bit tensors lose less with it where channels differ much."""
    model, x = transformer("opt"), inputs("opt", 32)
    with torch.no_grad():
        for block in blocks(model):
            for norm in block.norms:
                model.get_submodule(norm).weight[3] *= 60
    y = outputs(model, x)
    lost = {}
    for smooth in (None, 0.5):
        made = quantise(
            Calibration(model, [x]), Recipe(bits="W16A6", mode="strict", granularity="tensor", smooth=smooth, softmax_bits=16)
        )
        lost[smooth] = float((outputs(made.module, x) - y).norm())
    assert lost[0.5] < 0.75 * lost[None]
    same = quantise(Calibration(model, [x]), Recipe(bits="W16A16", smooth=0.5))
    torch.testing.assert_close(outputs(same.module, x), y)


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(CalibrationError, match="there are none"):
        quantise(Calibration(transformer("opt"), []), Recipe(bits="W4A4"))
    broken = transformer("vit")
    x = inputs("vit")
    x[0, 0, 0, 0] = np.nan
    with pytest.raises(CalibrationError, match="holds NaN or infinity"):
        quantise(Calibration(broken, [x]), Recipe(bits="W16A4"))
    with pytest.raises(CalibrationError, match="hold NaN or infinity"):
        quantise(Calibration(broken, [x]), Recipe(bits="W4A16"))
    for kind, batch in (
        ("opt", torch.full((2, 5), 99)),
        ("opt", inputs("opt").float()),
        ("vit", inputs("vit")[:, :, :7]),
        ("vit", inputs("vit").double()),
    ):
        with pytest.raises(CalibrationError, match="cannot take batch 0"):
            quantise(Calibration(transformer(kind), [batch]), Recipe(bits="W4A4"))
    lenet = initialise(MODELS.parse({"name": "lenet"}), (1, 28, 28), 10, 0)
    with pytest.raises(SpecError, match="no transformer block"):
        quantise(Calibration(lenet, [torch.zeros(1, 1, 28, 28)]), Recipe(bits="W4A4"))

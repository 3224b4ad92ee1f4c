"""Any torch model: every kind of layer gives through lossless converters what its integers give, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedcosim.hwsim.reram.adc import Uniform
from fedcosim.hwsim.reram.convert import CrossbarModel, fold_batch_norm
from fedcosim.hwsim.reram.crossbar import CrossbarOptions
from fedcosim.hwsim.simulator import HwsimError

IMAGE, SIGNAL, TOKENS = (3, 12, 12), (4, 20), (7, 8)


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x):
        padding = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        padding[:, -2:] = True
        causal = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)
        return self.attention(x, x.flip(1), x, key_padding_mask=padding, attn_mask=causal)[0]


def transformer():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


LAYERS = {
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), IMAGE),
    "conv2d strided, dilated": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), dilation=(2, 3), padding=(1, 2)), IMAGE),
    "conv2d same": (lambda: nn.Conv2d(3, 4, 4, padding="same"), IMAGE),
    "conv2d reflect": (lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), IMAGE),
    "conv2d replicate": (lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="replicate"), IMAGE),
    "conv2d circular": (lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular"), IMAGE),
    "grouped": (lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False), IMAGE),
    "depthwise and pointwise": (lambda: nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 8, 1)), IMAGE),
    "conv1d": (lambda: nn.Conv1d(4, 6, 5, stride=2, padding=2, groups=2), SIGNAL),
    "linear on tokens": (lambda: nn.Linear(8, 5), TOKENS),
    "batch norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), IMAGE),
    "attention": (Attention, TOKENS),
    "attention without bias": (lambda: Attention(bias=False), TOKENS),
    "transformer": (transformer, TOKENS),
}


def converted(model, shape, samples=6, **options):
    torch.manual_seed(1)
    x = torch.randn(samples, *shape)
    crossbar_model = CrossbarModel(model, CrossbarOptions(**options), x)
    crossbar_model.observe(x)
    return crossbar_model, x


@pytest.mark.parametrize("encoding", ["offset", "differential"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_gives_what_integers_give_and_nearly_what_floats_give(name, encoding):
    """Lowering, zero points and padding differ by layer; an error in one shows as garbage, not as noise."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    model = build().eval()
    crossbars, x = converted(model, shape, encoding=encoding)
    crossbars.set_adcs([[Uniform(8)]] * len(crossbars.layers))
    with torch.inference_mode():
        expected = model(x)
    integers = crossbars.run(x, "integer")
    assert torch.equal(crossbars.run(x, "crossbar"), integers)
    torch.testing.assert_close(crossbars.run_float(x), expected)
    assert (integers - expected).abs().max() < 0.03 * expected.abs().max()


def test_attention_alone_is_what_stays_digital():
    """Projections are mapped, in_proj's bare parameter included; products of two activations are not (seq 7, width 8)."""
    crossbars, _ = converted(Attention(), TOKENS)
    assert [layer.name for layer in crossbars.layers] == [
        f"attention.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")
    ]
    assert crossbars.mapped_macs == 4 * 7 * 8 * 8
    assert crossbars.macs - crossbars.mapped_macs == 2 * 7 * 7 * 8


def test_batch_norm_is_folded_where_a_layer_feeds_only_it():
    """A residual that taps the convolution before its norm forbids folding."""

    class Tapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    x = torch.randn(2, *IMAGE)
    for model, folds in ((plain, True), (Tapped(), False)):
        norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        model.eval()
        folded = fold_batch_norm(model, x)
        assert folds != any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        with torch.inference_mode():
            torch.testing.assert_close(folded(x), model(x))


def test_shared_weights_are_stored_once():
    """Tied layers fill one set of crossbars, and a module that runs twice is one layer."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(self.first(x)))

    crossbars, _ = converted(Tied(), TOKENS)
    assert len(crossbars.layers) == 2
    assert len(crossbars.stored) == 1
    assert crossbars.mapped_macs == crossbars.macs == 3 * 7 * 64


def test_what_is_not_mapped_is_named():
    """Work outside of crossbars must not vanish from a report."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.out = nn.ConvTranspose2d(3, 4, 2), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.out(self.up(x))

    crossbars, _ = converted(Mixed(), IMAGE)
    assert crossbars.unmapped == ["up: ConvTranspose2d"]
    assert crossbars.macs - crossbars.mapped_macs == 12 * 12 * 3 * 4 * 4
    with pytest.raises(HwsimError, match="no layer can be mapped; unmapped are model: ConvTranspose2d"):
        converted(nn.ConvTranspose2d(3, 4, 2), IMAGE)


def test_a_layer_that_gets_only_zeros_returns_its_bias():
    """Its activation scale would be 0."""
    model = nn.Sequential(nn.ReLU(), nn.Linear(8, 3))
    x = -torch.rand(4, 8)
    crossbars = CrossbarModel(model, CrossbarOptions(), x)
    crossbars.observe(x)
    crossbars.set_adcs([[Uniform(8)]])
    assert crossbars.layers[0].is_dead
    assert torch.equal(crossbars.run(x, "crossbar"), model[1].bias.detach().expand(4, 3))


def test_a_matrix_and_its_transpose_are_not_taken_for_one():
    """Transformers' Conv1D holds its weight the other way round; tied to a square Linear it is another matrix."""
    from transformers.pytorch_utils import Conv1D

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), Conv1D(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    model = Tied()
    crossbars, x = converted(model, TOKENS)
    assert len(crossbars.stored) == 2
    with torch.inference_mode():
        expected = model(x)
    assert (crossbars.run(x, "integer") - expected).abs().max() < 0.03 * expected.abs().max()


def test_models_that_data_do_not_fit_are_refused():
    class Pair(nn.Linear):
        def forward(self, x):
            return x, x

    with pytest.raises(HwsimError, match="the model cannot run them"):
        converted(nn.Linear(9, 3), TOKENS)
    with pytest.raises(HwsimError, match="its output is a tuple"):
        converted(Pair(8, 3), TOKENS)


def test_numbers_that_are_not_finite_are_refused():
    broken = nn.Linear(8, 3)
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(HwsimError, match="weights of weight are not finite"):
        converted(broken, TOKENS)
    model = nn.Linear(8, 3)
    crossbars, x = converted(model, TOKENS)
    with pytest.raises(HwsimError, match="activations of layer model are not finite"):
        crossbars.observe(x / 0)

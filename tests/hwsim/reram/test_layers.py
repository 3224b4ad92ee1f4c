"""Layers seen from outside are those that conversion makes, and what is left is what else a model multiplies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedcosim.hwsim.reram.convert import CrossbarModel, count_macs
from fedcosim.hwsim.reram.crossbar import CrossbarOptions
from fedcosim.hwsim.reram.layers import layers, watch


class Attentive(nn.Module):
    """Attention over positions, batch first or not, and a convolution with groups."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.conv = nn.Conv2d(4, 8, 3, stride=2, groups=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.head = nn.Linear(8, 5)

    def forward(self, x_NCHW):
        x_NLC = self.conv(x_NCHW).flatten(2).transpose(1, 2)
        x = x_NLC if self.batch_first else x_NLC.transpose(0, 1)
        y, _ = self.attention(x, x, value=x)
        y_NLC = y if self.batch_first else y.transpose(0, 1)
        return self.head(y_NLC.mean(1)) + self.head(y_NLC[:, 0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_layers_are_those_that_are_converted(batch_first):
    """Conversion, which replaces modules, finds the same matrices and vectors; the head runs twice."""
    model, x = Attentive(batch_first).eval(), torch.rand(6, 4, 9, 9)
    *mapped, rest = layers(model, (x,), 6)
    converted = CrossbarModel(model, CrossbarOptions(), x)
    made = {
        layer.name: (layer.crossbars.inputs, layer.crossbars.outputs, layer.crossbars.groups, layer.positions)
        for layer in converted.layers
    }
    assert {one.name: (one.inputs, one.outputs, one.groups, one.positions) for one in mapped} == made
    assert len(made) == 6
    assert rest.kind == "digital"
    assert rest.macs == converted.macs - converted.mapped_macs == 2 * 16 * 16 * 8
    assert [one.input_gradient for one in mapped] == [False, True, True, True, True, True]


def test_shapes_are_seen_without_numbers():
    with torch.device("meta"):
        model, x = nn.Sequential(nn.Conv1d(3, 6, 5), nn.Flatten(), nn.Linear(24, 2)), torch.empty(2, 3, 8)
    conv, linear = layers(model, (x,), 2)
    assert (conv.inputs, conv.outputs, conv.positions) == (15, 6, 4)
    assert (linear.inputs, linear.outputs, linear.positions) == (24, 2, 1)
    assert count_macs(model, x) == 2 * (conv.macs + linear.macs)


def test_watching_leaves_nothing_behind():
    model = nn.Linear(3, 2)
    with watch(model) as watching:
        model(torch.rand(4, 3))
    model(torch.rand(4, 3))
    assert [layer.shape(4).positions for layer in watching.layers] == [1]
    assert not model._forward_hooks

"""The two-convolution CNN of pfl-research's CIFAR10 benchmark: 1,626,442 parameters on 3 x 32 x 32 images with 10 classes.

Source: apple/pfl-research, benchmarks/model/pytorch/cnn.py, `simple_cnn`: layers, dropout and Glorot-uniform weights as
there. The biases keep PyTorch's default initialisation, also as there.

Shapes: B = batch, C = channels, H, W = image, F = features, K = classes.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from ...core.errors import SpecError
from .options import ModelOptions


class CnnOptions(ModelOptions):
    """Two convolutions and a wide hidden layer, with dropout: 1.6 million parameters on CIFAR-10."""

    name: Literal["cnn"] = "cnn"
    dropout_features: Annotated[float, Ge(0), Lt(1)] = 0.25
    """Share of pooled features dropped in training."""
    dropout_hidden: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Share of hidden units dropped in training."""

    def build(self, shape_CHW: tuple[int, int, int], classes: int) -> Cnn:
        """Build the model.

        Raises
        ------
        SpecError
            If a side of the image is below 6 pixels.
        """
        if min(shape_CHW[1:]) < 6:
            raise SpecError(f"model.name = 'cnn': the image is {shape_CHW[1]} x {shape_CHW[2]}; at least 6 x 6 is needed")
        return Cnn(self, shape_CHW, classes)


class Cnn(nn.Module):
    """Two unpadded 3 x 3 convolutions of 32 and 64 channels, one pooling, 128 hidden units, `classes` outputs.

    Parameters
    ----------
    options : CnnOptions
        The dropout rates.
    shape_CHW : tuple of int
        One image; height and width from 6 pixels up.
    classes : int
        Width of the head.
    """

    channels_last: ClassVar[bool] = True  # a training step takes 6-10 % less at batch 10, 3-9 % less at 64 (1 thread, EPYC)

    def __init__(self, options: CnnOptions, shape_CHW: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape_CHW
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=3)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)
        self.dropout_features = nn.Dropout(options.dropout_features)
        self.hidden = nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128)
        self.dropout_hidden = nn.Dropout(options.dropout_hidden)
        self.head = nn.Linear(128, classes)
        for layer in (self.conv1, self.conv2, self.hidden, self.head):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits, shape (B, K)."""
        x_BCHW = F.relu(self.conv2(F.relu(self.conv1(x_BCHW))))
        x_BF = self.dropout_features(F.max_pool2d(x_BCHW, 2)).flatten(1)
        x_BF = self.dropout_hidden(F.relu(self.hidden(x_BF)))
        return self.head(x_BF)

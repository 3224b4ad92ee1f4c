"""What every architecture's options have in common."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn

from ...core.options import Options


class ModelOptions(Options):
    """Settings of one architecture; `build` makes the model.

    A subclass declares ``name: Literal["..."] = "..."``, the name it is registered under. The model it builds calls its last
    layer `head` and says in `channels_last` whether training is faster with images and weights in that memory format.
    """

    @abstractmethod
    def build(self, shape_CHW: tuple[int, int, int], classes: int) -> nn.Module:
        """Build the model for images of shape `shape_CHW` and this many classes, weights drawn from torch's generator.

        Plugins are drawn after everything else, so that the base is the same with and without them.

        Raises
        ------
        SpecError
            If the architecture cannot take images of this shape.
        """

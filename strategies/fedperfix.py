"""FedPerfix: personalised Vision Transformers by plugins on keys and values.

Source: Sun et al., arXiv:2308.09160, eqs. 4-6 and section 4. Each client holds v = (plugins, head), the federation shares
u = everything else, the original attention weights included:

    a sampled client receives u, plugs in its own v, trains both together by SGD, keeps v, uploads u;
    the server averages u, weighted by sample counts;
    a client is judged on its own test data with the newest u and its own v.

On the server this is FedAvg over u; what is special is the model (`clients/models/vit.py`) and what stays local. The paper
writes the plugin as a concatenated prefix, its published numbers come from an added one: both are modes, `add` the default.
Depth and initialisation are options of ours.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from flwr.serverapp.strategy import FedAvg
from pydantic import Field

from ..clients.models import ModelOptions
from ..clients.models.vit import VitOptions
from ..core.errors import SpecError
from ..core.options import validate
from .options import StrategyOptions


class FedPerfixOptions(StrategyOptions):
    """Plugins and head stay on the client; everything else is averaged. The fields are those of `model.plugin`."""

    flower: ClassVar = FedAvg
    averages: ClassVar = True
    local: ClassVar = ("head", "blocks.*.attention.plugin")
    name: Literal["fedperfix"] = "fedperfix"
    plugin: Literal["add", "concat", "vector"] = "add"
    """How the plugin enters keys and values; `add` is the published code, `concat` the paper's equations."""
    rank: Annotated[int, Field(ge=1)] = 16
    """Width of the plugin's bottleneck."""
    scale: float = 1.5
    """Factor s on the plugin's output; 0 switches it off."""
    depth: Annotated[int, Field(ge=1)] | None = None
    """Plug only the last `depth` blocks; all when absent."""
    tokens: Annotated[int, Field(ge=1)] = 16
    """Learnable rows of plugin = "vector"."""
    init: Literal["default", "zero"] = "default"
    """`zero` starts the plugin's output at zero; the published code does not."""

    def adapt(self, model: ModelOptions) -> ModelOptions:
        """Put the plugin into a ViT's attention.

        Raises
        ------
        SpecError
            If the model is not a ViT, carries a plugin of its own, or cannot carry this one.
        """
        if not isinstance(model, VitOptions) or model.plugin is not None:
            raise SpecError(
                "model: strategy 'fedperfix' needs model.name = 'vit' without model.plugin; it puts its own plugin in"
            )
        plugin = {"mode": self.plugin, **self.model_dump(exclude={"name", "plugin"})}
        try:
            return validate(VitOptions, {**model.model_dump(), "plugin": plugin}, "model")
        except SpecError as error:
            raise SpecError([problem.replace("model.plugin.", "strategy.") for problem in error.problems]) from None

    def _constructor_fields(self) -> set[str]:
        return set()

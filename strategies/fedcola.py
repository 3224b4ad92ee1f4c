"""FedCola: uni-modal clients help multi-modal ones, though they share no sample and no task.

Source: Sun et al., "Towards Multi-modal Transformers in Federated Learning", arXiv:2404.12467 (ECCV 2024), section 3. Each
client type has a model. In every round a cohort of each type trains it on its own task; then

    collaborative aggregation   self-attention of a modality moves with all types that hold it (`collaboration.py`)
    compensation                all else moves by the type's own share, so that a model's layers keep pace
    complementary training      uni-modal clients train with gates to the other modalities' weights (`clients/models/gates.py`),
                                which the server sends along and the upload has merged in

What is borrowed comes from the uni-modal types of the other modalities, as in the published code; a type without such a partner
trains without gates. Ablations and controls are settings; `fedavg-types`, `fedprox-types`, `fediot-style` are baselines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from flwr.app import RecordDict
from pydantic import Field

from ..clients.data.silos import SiloType
from ..clients.models.gates import Gated, gated_layers
from ..clients.models.towers import TowersOptions
from ..clients.multimodal import AUX
from ..core.records import array_record
from .collaboration import Collaboration, Compensation, Denominator, Sharing
from .options import Setting
from .typed import Typed, TypedOptions


class FedAvgTypesOptions(TypedOptions):
    """Federated averaging within each client type; types learn nothing from each other."""

    name: Literal["fedavg-types"] = "fedavg-types"

    def build(self, setting: Setting) -> Typed:
        """Make the Flower strategy."""
        return Typed(setting, self)


class FedProxTypesOptions(FedAvgTypesOptions):
    """FedProx within each client type: clients stay near what they were sent (arXiv:1812.06127)."""

    name: Literal["fedprox-types"] = "fedprox-types"  # type: ignore[assignment]
    proximal_mu: Annotated[float, Field(ge=0)] = 0.01
    """Weight mu of mu/2 |w - w_received|^2 in the clients' loss."""


class FedColaOptions(TypedOptions):
    """Types share self-attention of a modality, compensated; uni-modal clients train with gates to the other modality."""

    name: Literal["fedcola"] = "fedcola"
    share: Sharing = "attention"
    """Layers that types move together within a modality; `attention` is the paper's, the others are ablations."""
    compensation: Compensation = "all"
    """Layers that move by the type's own share where they are not shared; `all` is the paper's."""
    gates: Gated = "blocks"
    """Layers of uni-modal clients that have a gate; `none` switches complementary training off."""
    gate_lr: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the gates; absent: `train.lr`."""
    borrowed: Literal["trained", "fixed"] = "trained"
    """Whether clients train the weights that they borrow while they have them."""
    denominator: Denominator = "modality"
    """What shares are shares of: `modality` is the paper's formula, `release` its published code's."""
    paired_weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the sample counts of types with several modalities, when types are weighted against each other."""

    def collaboration(self, types: Mapping[str, SiloType]) -> Collaboration:
        """Return who shares what with whom."""
        return Collaboration(types, self.share, self.compensation, self.denominator, self.paired_weight, self.server_lr)

    def build(self, setting: Setting) -> FedCola:
        """Make the Flower strategy."""
        return FedCola(setting, self)


class FedIotStyleOptions(FedColaOptions):
    """Types share whole blocks of a modality, clients with several modalities weighted a hundredfold.

    The aggregation that FedCola compares with, after Zhao et al. (arXiv:2109.04833), whose split autoencoders and server-side
    classifier it leaves out; the weight is an argument of FedCola's published code that no line of it reads.
    """

    name: Literal["fediot-style"] = "fediot-style"  # type: ignore[assignment]
    share: Sharing = "blocks"
    """Layers that types move together within a modality."""
    compensation: Compensation = "none"
    """Layers that move by the type's own share where they are not shared."""
    gates: Gated = "none"
    """Layers of uni-modal clients that have a gate."""
    paired_weight: Annotated[float, Field(gt=0)] = 100.0
    """Factor on the sample counts of types with several modalities, when types are weighted against each other."""


class FedCola(Typed):
    """The server's side."""

    options: FedColaOptions

    def content(self, name: str, server_round: int) -> RecordDict:
        """Return what clients of a type are sent: its model and, to those of one modality, what they borrow."""
        content, aux = super().content(name, server_round), self._aux(name)
        if aux:
            content[AUX] = array_record(aux)
            config = content.config_records["config"]
            config["train-borrowed"] = self.options.borrowed == "trained"
            if self.options.gate_lr is not None:
                config["gate-lr"] = self.options.gate_lr
        return content

    def _aux(self, name: str) -> dict[str, np.ndarray]:
        types, model = self.setting.types, self.setting.model
        assert isinstance(model, TowersOptions)
        if len(types[name].views) > 1:
            return {}
        own, lenders = types[name].modalities, dict[str, str]()
        for other, kind in types.items():
            if len(kind.views) == 1 and not kind.modalities & own:
                lenders.setdefault(next(iter(kind.views)), other)
        return {
            f"{modality}/{layer}": self._start[other][f"towers.{modality}.{layer}.weight"]
            for modality, other in lenders.items()
            for layer in gated_layers(model.depth, self.options.gates)
        }

"""Flower's own strategies, by name. Field names and defaults are those of Flower's constructors.

Formulas and references are in Flower's documentation of each class; nothing is re-implemented here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from flwr.serverapp import strategy as flower
from pydantic import Field

from .options import StrategyOptions

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]


class FedAvgOptions(StrategyOptions):
    """Federated averaging (arXiv:1602.05629)."""

    flower: ClassVar = flower.FedAvg
    averages: ClassVar = True
    name: Literal["fedavg"] = "fedavg"


class FedAvgMOptions(StrategyOptions):
    """FedAvg with server momentum (arXiv:1909.06335)."""

    flower: ClassVar = flower.FedAvgM
    averages: ClassVar = True
    name: Literal["fedavgm"] = "fedavgm"
    server_learning_rate: Positive = 1.0
    """Step along the averaged update."""
    server_momentum: Decay = 0.9
    """Share of the previous step that is kept."""


class FedProxOptions(StrategyOptions):
    """FedAvg whose clients add mu/2 |w - w_global|^2 to their loss (arXiv:1812.06127)."""

    flower: ClassVar = flower.FedProx
    averages: ClassVar = True
    not_private_because: ClassVar = "the proximal term is not part of the private training"
    name: Literal["fedprox"] = "fedprox"
    proximal_mu: NonNegative = 0.01
    """Weight mu of the proximal term; 0 is FedAvg."""


class _FedOptOptions(StrategyOptions):
    averages: ClassVar = True
    eta: Positive = 0.1
    """Server learning rate."""
    eta_l: Positive = 0.1
    """Client learning rate as the server assumes it."""
    tau: Positive = 1e-3
    """Degree of adaptivity."""


class FedAdagradOptions(_FedOptOptions):
    """Adaptive server optimisation, Adagrad (arXiv:2003.00295)."""

    flower: ClassVar = flower.FedAdagrad
    name: Literal["fedadagrad"] = "fedadagrad"


class FedAdamOptions(_FedOptOptions):
    """Adaptive server optimisation, Adam (arXiv:2003.00295)."""

    flower: ClassVar = flower.FedAdam
    name: Literal["fedadam"] = "fedadam"
    beta_1: Decay = 0.9
    """Decay of the first moment."""
    beta_2: Decay = 0.99
    """Decay of the second moment."""


class FedYogiOptions(_FedOptOptions):
    """Adaptive server optimisation, Yogi (arXiv:2003.00295)."""

    flower: ClassVar = flower.FedYogi
    name: Literal["fedyogi"] = "fedyogi"
    eta: Positive = 0.01
    """Server learning rate."""
    eta_l: Positive = 0.0316
    """Client learning rate as the server assumes it."""
    beta_1: Decay = 0.9
    """Decay of the first moment."""
    beta_2: Decay = 0.99
    """Decay of the second moment."""


class FedMedianOptions(StrategyOptions):
    """Coordinate-wise median (arXiv:1803.01498)."""

    flower: ClassVar = flower.FedMedian
    name: Literal["fedmedian"] = "fedmedian"


class FedTrimmedAvgOptions(StrategyOptions):
    """Coordinate-wise trimmed mean (arXiv:1803.01498)."""

    flower: ClassVar = flower.FedTrimmedAvg
    name: Literal["fedtrimmedavg"] = "fedtrimmedavg"
    beta: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    """Share to cut off from both tails."""


class _ByzantineOptions(StrategyOptions):
    """Strategies that tolerate f malicious clients need a cohort that outnumbers them."""

    multiple: ClassVar[int] = 2
    num_malicious_nodes: Count = 0
    """How many clients of a round may be malicious."""

    def check(self, per_round: int) -> list[str]:
        need = self.multiple * self.num_malicious_nodes + 3
        if per_round >= need:
            return []
        return [
            f"federation.per_round = {per_round}: {type(self).model_fields['name'].default} with "
            f"strategy.num_malicious_nodes = {self.num_malicious_nodes} needs at least {need} clients a round"
        ]


class KrumOptions(_ByzantineOptions):
    """Krum: the update closest to its neighbours (arXiv:1703.02757)."""

    flower: ClassVar = flower.Krum
    name: Literal["krum"] = "krum"


class MultiKrumOptions(_ByzantineOptions):
    """Multi-Krum: the mean of the updates closest to their neighbours (arXiv:1703.02757)."""

    flower: ClassVar = flower.MultiKrum
    name: Literal["multikrum"] = "multikrum"
    num_nodes_to_select: Annotated[int, Field(ge=1)] = 1
    """How many updates are averaged; 1 is Krum."""

    def check(self, per_round: int) -> list[str]:
        """Return what is wrong: also more nodes to select than a round has."""
        problems = super().check(per_round)
        if self.num_nodes_to_select > per_round:
            problems.append(
                f"strategy.num_nodes_to_select = {self.num_nodes_to_select}: a round has only {per_round} clients "
                f"(federation.per_round); choose 1 to {per_round}"
            )
        return problems


class BulyanOptions(_ByzantineOptions):
    """Bulyan over Multi-Krum (arXiv:1802.07927)."""

    flower: ClassVar = flower.Bulyan
    multiple: ClassVar = 4
    name: Literal["bulyan"] = "bulyan"


class QFedAvgOptions(StrategyOptions):
    """q-FedAvg: clients with a higher loss weigh more (arXiv:1905.10497)."""

    flower: ClassVar = flower.QFedAvg
    not_private_because: ClassVar = "clients would have to send their training losses"
    name: Literal["qfedavg"] = "qfedavg"
    client_learning_rate: Positive = 0.1
    """The clients' learning rate: 1 / L in the paper."""
    q: NonNegative = 0.1
    """How much fairness: 0 is plain averaging."""

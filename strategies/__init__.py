"""Strategies by name: one file a strategy, one line here. Stock Flower strategies are in `stock`."""

from ..core.options import Registry
from .options import StrategyOptions

STRATEGIES: Registry[StrategyOptions] = Registry(
    "strategy",
    {
        "fedavg": "strategies.stock:FedAvgOptions",
        "fedavgm": "strategies.stock:FedAvgMOptions",
        "fedprox": "strategies.stock:FedProxOptions",
        "fedadam": "strategies.stock:FedAdamOptions",
        "fedadagrad": "strategies.stock:FedAdagradOptions",
        "fedyogi": "strategies.stock:FedYogiOptions",
        "fedmedian": "strategies.stock:FedMedianOptions",
        "fedtrimmedavg": "strategies.stock:FedTrimmedAvgOptions",
        "krum": "strategies.stock:KrumOptions",
        "multikrum": "strategies.stock:MultiKrumOptions",
        "bulyan": "strategies.stock:BulyanOptions",
        "qfedavg": "strategies.stock:QFedAvgOptions",
        "local": "strategies.local:LocalOptions",
        "fedper": "strategies.fedper:FedPerOptions",
        "fedperfix": "strategies.fedperfix:FedPerfixOptions",
        "ensemble": "strategies.ensemble:EnsembleOptions",
        "feddiff": "strategies.feddiff:FedDiffOptions",
        "feddiff-averaged": "strategies.feddiff_averaged:FedDiffAveragedOptions",
        "feddiff-warm": "strategies.feddiff_warm:FedDiffWarmOptions",
        "fedcvae": "strategies.fedcvae:FedCvaeOptions",
        "fedcvae-kd": "strategies.fedcvae_kd:FedCvaeKdOptions",
        "dense": "strategies.dense:DenseOptions",
        "coboosting": "strategies.coboosting:CoBoostingOptions",
        "feddf": "strategies.feddf:FedDfOptions",
        "fedcola": "strategies.fedcola:FedColaOptions",
        "fedavg-types": "strategies.fedcola:FedAvgTypesOptions",
        "fedprox-types": "strategies.fedcola:FedProxTypesOptions",
        "creamfl-like": "strategies.creamfl:CreamFlLikeOptions",
        "fediot-style": "strategies.fedcola:FedIotStyleOptions",
    },
)

__all__ = ["STRATEGIES", "StrategyOptions"]

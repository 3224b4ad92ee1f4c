"""Energy of arithmetic and of memory traffic: a range, because published constants differ by factors.

The lower end is what the operations and bytes themselves take, plus the device's idle power; caches, control and conversion
losses are missing. The upper end is the device's largest power all the time. Neither exceeds the latter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..devices import Device
from .workload import Precision

EnergyModel = Literal["7nm", "45nm"]

_PICO = 1e-12
# Energy of an operation: half a multiplication and an addition. int4 has no published figure and counts as int8.
# 7 nm: Jouppi et al., "Ten Lessons From Three Generations", ISCA 2021; 45 nm: Horowitz, ISSCC 2014.
_OPERATION_PJ: dict[EnergyModel, dict[Precision, float]] = {
    "7nm": {"fp32": (0.38 + 1.31) / 2, "fp16": (0.16 + 0.34) / 2, "bf16": (0.11 + 0.21) / 2, "int8": (0.007 + 0.07) / 2},
    "45nm": {"fp32": (0.9 + 3.7) / 2, "fp16": (0.4 + 1.1) / 2, "bf16": (0.4 + 1.1) / 2, "int8": (0.03 + 0.2) / 2},
}
# Energy of a byte from or to memory. DDR4, HBM2, GDDR6: Jouppi et al.; LPDDR4/5: 30 to 40 pJ is what is commonly quoted.
_BYTE_PJ = {"ddr": (162.0, 162.0), "lpddr": (30.0, 40.0), "hbm2": (31.0, 56.0), "gddr6": (44.0, 60.0)}


@dataclass(frozen=True)
class Energy:
    """Joules, at least and at most."""

    low_j: float
    high_j: float


def energy(device: Device, precision: Precision, flops: int, memory_bytes: int, time_s: float, model: EnergyModel) -> Energy:
    """Estimate what a workload takes on a device.

    Parameters
    ----------
    time_s : float
        How long it runs there.
    """
    operations = _OPERATION_PJ[model]
    low_pj, high_pj = _BYTE_PJ[device.memory_kind]
    arithmetic_j = flops * operations.get(precision, operations["int8"]) * _PICO
    idle_j = (device.idle_power_w or 0.0) * time_s
    low_j = arithmetic_j + memory_bytes * low_pj * _PICO + idle_j
    if device.max_power_w is None:
        return Energy(low_j, arithmetic_j + memory_bytes * high_pj * _PICO + idle_j)
    most_j = device.max_power_w * time_s
    return Energy(min(low_j, most_j), most_j)

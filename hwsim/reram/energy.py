"""What conversions, reads and everything around them cost: energy, latency, area, by component.

Published converter models differ tenfold for the same 8 bits at 32 nm, so every joule here names its model; ratios between
converters hardly depend on it. A model gives the energy of a full conversion of the array's lossless converter; the default is
that every step costs an equal share of it, "cdac_weighted" weighs a step by the capacitor it switches.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import Field

from ...core.options import Options
from ..simulator import HwsimError
from .adc import Adc
from .calibrate import Choice
from .crossbar import CrossbarOptions

PICO = 1e-12


class EnergyOptions(Options):
    """Whose numbers are used, and when things happen."""

    model: Literal["isaac", "cdac_weighted", "murmann", "neurosim"] = "isaac"
    """Of the converters; everything else is ISAAC's."""
    node_nm: Annotated[int, Field(ge=7, le=130)] = 32
    """Of the converters: murmann scales, neurosim knows 22, 32 and 65, the others 32."""
    logic_overhead: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share by which twin-range logic makes a step dearer."""
    schedule: Literal["in_turn", "pipelined"] = "in_turn"
    """Layers one after the other, or all at once on successive samples."""


@dataclass(frozen=True)
class Work:
    """What one layer does, over all samples.

    Attributes
    ----------
    inputs, outputs, groups : int
        Of its matrix; the first two of one group.
    vectors : int
        Input vectors.
    lines, skipped : float
        Bit lines, and how many of them were not converted.
    """

    inputs: int
    outputs: int
    groups: int
    vectors: float
    lines: float
    skipped: float = 0.0


@cache
def constants() -> dict[str, Any]:
    """Return `constants.toml`."""
    return tomllib.loads(files(__package__).joinpath("constants.toml").read_text(encoding="utf-8"))


def _value(section: str, name: str) -> Any:
    part: Any = constants()
    for key in section.split("."):
        part = part[key]
    return part[name]["value"]


def conversion_j(options: EnergyOptions, bits: int) -> float:
    """Return the energy of one full conversion of `bits` bits.

    Raises
    ------
    HwsimError
        If the model has no figure for that many bits or that node: nothing is extrapolated.
    """
    if options.model == "murmann":
        return _murmann_j(options.node_nm, bits)
    name = "neurosim" if options.model == "neurosim" else "isaac"
    table = constants()["adc"][name]
    if bits not in table["bits"]:
        raise HwsimError(
            f"energy.model = {options.model!r}: no figure for {bits} bits; it knows {table['bits'][0]} to {table['bits'][-1]}",
            "OUT_OF_RANGE",
            "energy.model",
        )
    nodes = [int(key[len("conversion_fj_") : -len("nm")]) for key in table if key.startswith("conversion_fj_")] or [32]
    if options.node_nm not in nodes:
        known = ", ".join(map(str, nodes))
        raise HwsimError(
            f"energy.node_nm = {options.node_nm}: {options.model!r} has no figures for it; choose one of {known}",
            "OUT_OF_RANGE",
            "energy.node_nm",
        )
    at = table["bits"].index(bits)
    if name == "isaac":
        return table["conversion_pj"]["value"][at] * PICO
    return table[f"conversion_fj_{options.node_nm}nm"]["value"][at] * 1e-15


def _murmann_j(node_nm: int, bits: int) -> float:
    """Return Murmann's survey's regression for 1.28 GS/s, as Accelergy's ADC plug-in fits it."""
    table = constants()["adc"]["murmann"]
    if bits < table["lowest_bits"]:
        raise HwsimError(
            f"energy.model = 'murmann': has no figure for {bits} bits; its survey starts at {table['lowest_bits']}",
            "OUT_OF_RANGE",
            "energy.model",
        )
    figures = {key: entry["value"] for key, entry in table.items() if isinstance(entry, dict)}
    rate = _value("adc.isaac", "samples_per_s")
    most_db = figures["fom_most_intercept_db"] + figures["fom_most_slope_db"] * bits
    fom_db = min(figures["fom_intercept_db"] - figures["fom_slope_db"] * math.log(rate), most_db)
    sndr_db = 6.0206 * bits + 1.761
    constant, per_node, per_bits, offset = figures["energy_exponents"]
    scale = math.exp(constant + per_node * math.log(node_nm) + per_bits * math.log(bits) + offset)
    return scale / (2 * 10 ** ((fom_db - sndr_db) / 10)) * PICO


def range_j(adc: Adc, options: EnergyOptions, full_bits: int) -> tuple[float, float]:
    """Return the energy of one conversion in the fine range and in the coarse one."""
    full_j = conversion_j(options, full_bits)
    overhead = 1 + options.logic_overhead
    if options.model != "cdac_weighted":
        step_j = full_j / full_bits
        twin = overhead if adc.fine_steps else 1.0
        return adc.fine_steps * step_j * twin, adc.coarse_steps * step_j * twin
    share = _value("adc.cdac_weighted", "fixed_share")
    weights = [share + (1 - share) * 2.0 ** (bit - full_bits + 1) for bit in range(full_bits)]
    scale = full_j / sum(weights) * (overhead if adc.fine_steps else 1.0)

    def spent(bits: Iterable[int]) -> float:
        return scale * sum(weights[min(bit, full_bits - 1)] for bit in bits)

    return spent(adc.fine_switched), spent(adc.coarse_switched)


def line_j(choice: Choice, options: EnergyOptions, full_bits: int) -> float:
    """Return the energy of converting one bit line, on average over a layer's."""
    total_j = 0.0
    for setting in choice.settings:
        fine_j, coarse_j = range_j(setting.adc, options, full_bits)
        total_j += (1 - setting.skipped - setting.coarse) * fine_j + setting.coarse * coarse_j
    return total_j / len(choice.settings)


def array_j(work: Work, crossbar: CrossbarOptions) -> dict[str, float]:
    """Return the energy of a layer's other parts, by name."""
    crossbars = crossbar.crossbars(work.inputs, work.outputs, work.groups)
    bits_in = work.vectors * work.groups * work.inputs * crossbar.activation_bits
    bits_out = work.vectors * work.groups * work.outputs * crossbar.activation_bits
    reads = work.vectors * crossbar.cycles * crossbars
    cells = crossbar.rows * crossbar.columns / (128 * 128)
    picojoules = {
        "dac": reads * crossbar.rows * _value("component", "dac_row_pj"),
        "crossbar": reads * cells * _value("component", "crossbar_read_pj"),
        "shift_add": (work.lines - work.skipped) * _value("component", "shift_add_pj"),
        "buffers": (bits_in + bits_out) * _value("component", "edram_pj_per_bit"),
        "bus": (bits_in + bits_out) * _value("component", "bus_pj_per_bit"),
        "router": bits_out * _value("component", "router_pj_per_bit"),
    }
    return {name: value * PICO for name, value in picojoules.items()}


def cycle_s(crossbar: CrossbarOptions) -> float:
    """Return the time of one read: the slowest of the array and of the converters that share its columns.

    The slot is the same for all converters: fewer steps save energy, not time, since one slow column would hold up the rest.
    """
    conversions = -(-crossbar.columns // crossbar.adcs_per_crossbar)
    return max(crossbar.cycle_ns * 1e-9, conversions / _value("adc.isaac", "samples_per_s"))


def latency_s(works: Iterable[Work], crossbar: CrossbarOptions, schedule: str) -> float:
    """Return the time of all layers, one vector of a layer after the other."""
    times = [work.vectors * crossbar.cycles * cycle_s(crossbar) for work in works]
    return sum(times) if schedule == "in_turn" else max(times, default=0.0)


def areas(crossbars: int, crossbar: CrossbarOptions) -> dict[str, float]:
    """Return the area, mm2, of so many crossbars and what belongs to them, by component."""
    cells = crossbar.rows * crossbar.columns / (128 * 128)
    square_um = {
        "adc": crossbars * crossbar.adcs_per_crossbar * _value("adc.isaac", "area_um2"),
        "dac": crossbars * crossbar.rows * _value("component", "dac_row_um2"),
        "crossbar": crossbars * cells * _value("component", "crossbar_um2"),
        "sample_hold": crossbars * crossbar.columns * _value("component", "sample_hold_um2"),
        "shift_add": crossbars / 2 * _value("component", "shift_add_um2"),
        "registers": crossbars * _value("component", "registers_um2"),
        "tile": math.ceil(crossbars / _value("tile", "crossbars")) * _value("tile", "shared_um2"),
    }
    return {name: value * 1e-6 for name, value in square_um.items()}


def tile_power_w(reduction: float) -> float:
    """Return the power of one of ISAAC's tiles whose converters need `reduction` times less: the rest stays."""
    adc_mw = _value("tile", "adc_power_mw")
    return (_value("tile", "power_mw") - adc_mw * (1 - 1 / reduction)) * 1e-3


def digital_j(macs: float) -> tuple[float, float]:
    """Return the range of what multiply-accumulates cost that no crossbar does."""
    return macs * _value("digital", "mac_low_pj") * PICO, macs * _value("digital", "mac_high_pj") * PICO


def write_j(cells: float) -> tuple[float, float]:
    """Return the range of what writing so many cells once costs: published figures are two orders of magnitude apart."""
    return cells * _value("write", "cell_low_pj") * PICO, cells * _value("write", "cell_high_pj") * PICO


def write_s(crossbar: CrossbarOptions) -> float:
    """Return the time to write all crossbars at once, row by row."""
    return crossbar.rows * _value("write", "row_ns") * 1e-9


def endurance_low() -> float:
    """Return how many writes the weakest published cells take."""
    return _value("write", "endurance_low")

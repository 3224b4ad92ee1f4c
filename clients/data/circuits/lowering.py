"""Yosys' JSON of AND gates and inverters as graphs, one an output; whatever is not a combinational circuit is named."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ....core.errors import DataError
from .extra import extra

if TYPE_CHECKING:
    from aigverse.networks import Aig, AigSignal

Bit = int | str
"""A net's number in its module, or a constant: 0, 1, x (never mind) or z (nothing drives it)."""
Module = Mapping[str, Any]
OUTPUTS = 256
"""Output bits at most; each becomes a graph of its own (our choice)."""
_CONSTANTS = ("0", "1", "x")
_REGISTER = re.compile(r"(DFF|DLATCH|_SR_|_FF_|dff|dlatch|\$sr|\$ff)")


def graphs(module: Module, name: str) -> dict[str, Aig]:
    """Return a graph of each output bit, with all inputs of the module; `x`, which any value would do for, becomes 0.

    Raises
    ------
    DataError
        If a net is driven by nothing or by several, or depends on itself, there is a register, or there are no outputs or more
        than `OUTPUTS`.
    """
    wanted = list(ports(module, "output"))
    if not 0 < len(wanted) <= OUTPUTS:
        raise DataError(f"{name}: {len(wanted)} output bits; a circuit may have 1 to {OUTPUTS}")
    called = _names(module)
    gates = _gates(module, name, called)
    inputs = [bit for _, bit in ports(module, "input")]
    order = _sorted(gates, inputs, name, called)
    outputs = {}
    for output, bit in wanted:
        _check_driven([bit], gates, inputs, name, called)
        outputs[output] = _graph(bit, gates, inputs, order)
    return outputs


def ports(module: Module, direction: str) -> Iterator[tuple[str, Bit]]:
    """Yield names (``y``, or ``y[2]`` of a vector) and bits of all ports of one direction, lowest bit of each first.

    Raises
    ------
    DataError
        If a port goes both ways.
    """
    for name, port in module["ports"].items():
        if port["direction"] == "inout":
            raise DataError(f"{name}: an inout port; ports must be inputs or outputs")
        if port["direction"] == direction:
            for i, bit in enumerate(port["bits"]):
                yield (f"{name}[{i + port.get('offset', 0)}]" if len(port["bits"]) > 1 else name), bit


def _names(module: Module) -> dict[Bit, str]:
    """Return what each net is called in the source, if it has a name there."""
    called: dict[Bit, str] = {}
    for name, net in sorted(module["netnames"].items(), key=lambda item: item[1]["hide_name"]):
        for i, bit in enumerate(net["bits"]):
            called.setdefault(bit, f"{name}[{i + net.get('offset', 0)}]" if len(net["bits"]) > 1 else name)
    return called


def _gates(module: Module, name: str, called: Mapping[Bit, str]) -> dict[Bit, tuple[Bit, ...]]:
    """Return the operands of every driven net: two for an AND gate, one for an inverter, none for an input."""
    gates: dict[Bit, tuple[Bit, ...]] = {}
    driven = [(bit, ()) for _, bit in ports(module, "input")] + [_cell(cell, name, called) for cell in module["cells"].values()]
    for bit, operands in driven:
        if bit in gates or isinstance(bit, str):
            raise DataError(f"{name}: the net {called.get(bit, bit)} is driven more than once; it may have one driver")
        gates[bit] = operands
    return gates


def _cell(cell: Mapping[str, Any], name: str, called: Mapping[Bit, str]) -> tuple[Bit, tuple[Bit, ...]]:
    pins, kind = cell["connections"], cell["type"]
    if kind == "$_AND_":
        return pins["Y"][0], (pins["A"][0], pins["B"][0])
    if kind == "$_NOT_":
        return pins["Y"][0], (pins["A"][0],)
    if _REGISTER.search(kind):
        net = called.get(pins["Q"][0], "?")
        raise DataError(f"{name}: the net {net} is a register or latch ({kind}); only combinational circuits are taken")
    raise DataError(f"{name}: a cell of type {kind} is not made of gates; only combinational circuits are taken")


def _sorted(gates: Mapping[Bit, tuple[Bit, ...]], inputs: list[Bit], name: str, called: Mapping[Bit, str]) -> list[Bit]:
    """Return all driven nets, operands first."""
    for operands in gates.values():
        _check_driven(operands, gates, inputs, name, called)
    try:
        return list(graphlib.TopologicalSorter(gates).static_order())
    except graphlib.CycleError as error:
        loop = list(dict.fromkeys(called[bit] for bit in error.args[1] if not called.get(bit, "$").startswith("$")))
        nets = ", ".join(loop) or "unnamed nets"
        raise DataError(f"{name}: a combinational loop through {nets}; no net may depend on itself") from None


def _check_driven(
    bits: Iterable[Bit], gates: Mapping[Bit, tuple[Bit, ...]], inputs: list[Bit], name: str, called: Mapping[Bit, str]
) -> None:
    for bit in bits:
        if bit not in gates and bit not in _CONSTANTS:
            raise DataError(f"{name}: the net {called.get(bit, bit)} is used, but nothing drives it")


def _graph(output: Bit, gates: Mapping[Bit, tuple[Bit, ...]], inputs: list[Bit], order: list[Bit]) -> Aig:
    needed, pending = set(), [output]
    while pending:
        if (bit := pending.pop()) not in needed:
            needed.add(bit)
            pending += gates.get(bit, ())
    aig = extra("aigverse.networks").Aig()
    signals: dict[Bit, AigSignal] = {constant: aig.get_constant(constant == "1") for constant in _CONSTANTS}
    signals |= {bit: aig.create_pi() for bit in inputs}
    for bit in order:
        if bit in needed and bit not in signals:
            operands = [signals[operand] for operand in gates[bit]]
            signals[bit] = aig.create_and(*operands) if len(operands) == 2 else ~operands[0]
    aig.create_po(signals[output])
    return aig

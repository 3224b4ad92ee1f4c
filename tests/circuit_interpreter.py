"""A second way to know what circuits do: one pattern at a time, in plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedcosim.clients.data.circuits import Netlist

GATES = {
    "and": all,
    "nand": lambda values: not all(values),
    "or": any,
    "nor": lambda values: not any(values),
    "xor": lambda values: sum(values) % 2 == 1,
    "xnor": lambda values: sum(values) % 2 == 0,
    "not": lambda values: not values[0],
    "buf": lambda values: values[0],
}


def bits(pattern: int, inputs: int) -> list[bool]:
    """Return the inputs that a pattern stands for."""
    return [bool(pattern >> i & 1) for i in range(inputs)]


def run(netlist: Netlist, inputs: Sequence[bool], stuck: Mapping[int, bool] | None = None) -> tuple[list[bool], bool]:
    """Return the value of every node, and of the output, with some nodes stuck."""
    stuck, values = stuck or {}, []
    for value in inputs:
        values.append(stuck.get(len(values), value))
    for left, right in netlist.fanins_A2.tolist():
        value = (values[left // 2] != bool(left % 2)) and (values[right // 2] != bool(right % 2))
        values.append(stuck.get(len(values), value))
    return values, values[netlist.output // 2] != bool(netlist.output % 2)


def value(circuit, name: str, known: dict[str, bool]) -> bool:
    """Return the value of a node of a circuitgraph circuit, given those of some others."""
    if name not in known:
        known[name] = bool(GATES[circuit.type(name)]([value(circuit, fanin, known) for fanin in circuit.fanin(name)]))
    return known[name]

"""Netlists in the ISCAS .bench format, rewritten as BLIF: one table a gate.

BLIF has no keywords among names, so a gate may be called `and` or `module`.
"""

from __future__ import annotations

import itertools
import re

from ....core.errors import DataError

_NAME = r"([\w.$:/<>\[\]-]+)"
_PORT = re.compile(rf"(INPUT|OUTPUT)\s*\(\s*{_NAME}\s*\)", re.IGNORECASE)
_GATE = re.compile(rf"{_NAME}\s*=\s*(\w+)\s*\(\s*([^()]*?)\s*\)")
_KINDS = ("AND", "NAND", "OR", "NOR", "XOR", "XNOR", "NOT", "BUF", "BUFF")
_FANINS = 10
"""Fan-ins of a gate at most (our choice)."""


def to_blif(text: str) -> str:
    """Return a .bench netlist as a BLIF model `top`.

    Raises
    ------
    DataError
        If a line is none of the format, or a gate is of an unknown type, with the line.
    """
    ports: dict[str, list[str]] = {"INPUT": [], "OUTPUT": []}
    tables = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if port := _PORT.fullmatch(line):
            ports[port[1].upper()].append(port[2])
        elif gate := _GATE.fullmatch(line):
            fanins = re.split(r"\s*,\s*", gate[3])
            tables.append(f".names {' '.join(fanins)} {gate[1]}\n{_table(gate[2].upper(), fanins, number)}")
        elif line:
            raise DataError(
                f"netlist: line {number} of the .bench file is {line[:60]!r}; expected INPUT(a), OUTPUT(y) or y = AND(a, b)"
            )
    head = [".model top", f".inputs {' '.join(ports['INPUT'])}", f".outputs {' '.join(ports['OUTPUT'])}"]
    return "\n".join([*head, *tables, ".end\n"])


def _table(kind: str, fanins: list[str], line: int) -> str:
    if kind.startswith("DFF"):
        raise DataError(f"netlist: line {line} of the .bench file is a register ({kind}); only gates are taken")
    single, count = kind in ("NOT", "BUF", "BUFF"), len(fanins)
    if kind not in _KINDS or not all(re.fullmatch(_NAME, fanin) for fanin in fanins) or count > (1 if single else _FANINS):
        raise DataError(
            f"netlist: line {line} of the .bench file has {kind} of {count} fan-ins; it may have one of {', '.join(_KINDS)}, "
            f"with 1 to {_FANINS} names (NOT and BUF: 1)"
        )
    value = 0 if kind in ("NAND", "NOR", "XNOR", "NOT") else 1
    if kind in ("OR", "NOR"):
        return f"{'0' * count} {1 - value}"
    if kind in ("XOR", "XNOR"):
        odd = ("".join(bits) for bits in itertools.product("01", repeat=count) if bits.count("1") % 2)
        return "\n".join(f"{bits} {value}" for bits in odd)
    return f"{'1' * count} {value}"

"""A small language of circuits: expressions that can be evaluated exactly, printed as Verilog, and read as tokens.

Word operations are printed as wires of a declared width, one operation each, so that Verilog's rules of context-determined
widths leave nothing open; bit operations nest. Names are drawn at random, so that they tell nothing about the function.

Shapes: P = input patterns, T = tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ....core.errors import DataError

NAMES = tuple(f"v{i}" for i in range(64))
_SYMBOLS = ("module", "endmodule", "input", "output", "wire", "assign", "m", "y")
_MARKS = ("(", ")", "[", "]", "{", "}", ",", ";", ":", "?", "=", "==", "&", "|", "^", "~", "+", "-", "*", "<")
VOCABULARY = ("", *_SYMBOLS, *_MARKS, *(str(i) for i in range(16)), *NAMES)
"""Token i is the text `VOCABULARY[i]`; token 0 pads."""
_TOKEN = re.compile(r"\s*(==|\w+|[^\w\s])")
_CODES = {token: code for code, token in enumerate(VOCABULARY)}


@dataclass(frozen=True, eq=False)
class Expr:
    """A node of an expression; nodes that are used more than once are printed as wires.

    Attributes
    ----------
    op : str
        ``in`` (an input), ``const``, ``[]`` (one bit of a word), ``{}`` (concatenation, highest first), ``r&``, ``r|``, ``r^``
        (reductions), or Verilog's own ``& | ^ ~ ?: + - * < ==``, unsigned.
    args : tuple of Expr
    width : int
        Bits.
    value : int
        An input's first pattern bit, a constant's value, the position of a bit.
    """

    op: str
    args: tuple[Expr, ...] = ()
    width: int = 1
    value: int = 0

    @property
    def is_leaf(self) -> bool:
        """Whether it is an input or a constant."""
        return self.op in ("in", "const")

    @property
    def widens(self) -> bool:
        """Whether Verilog may extend its operands before it computes them, which would change what ``~`` gives."""
        return self.op in ("+", "-", "*", "<", "==") or (self.width > 1 and self.op != "{}")


_WORDS = ("+", "-", "*", "{}")
"""Operations whose result has the width of the wire it is assigned to."""
_EVALUATE: dict[str, Callable[..., np.ndarray]] = {
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "~": lambda a: ~a,
    "?:": lambda condition, yes, no: np.asarray(np.where(condition != 0, yes, no)),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "<": lambda a, b: (a < b).astype(np.int64),
    "==": lambda a, b: (a == b).astype(np.int64),
    "r|": lambda a: (a != 0).astype(np.int64),
}


def evaluate(expr: Expr, inputs: int) -> np.ndarray:
    """Return the expression's value under all 2 ** `inputs` patterns, int64, shape (P,).

    Pattern p gives input bit i the bit i of p.
    """
    patterns_P = np.arange(2**inputs, dtype=np.int64)
    known: dict[Expr, np.ndarray] = {}

    def value(node: Expr) -> np.ndarray:
        if node not in known:
            args = [value(arg) for arg in node.args]
            known[node] = _value(node, args, patterns_P) & (2**node.width - 1)
        return known[node]

    return value(expr)


def _value(node: Expr, args: Sequence[np.ndarray], patterns_P: np.ndarray) -> np.ndarray:
    match node.op:
        case "in":
            return patterns_P >> node.value
        case "const":
            return np.full_like(patterns_P, node.value)
        case "[]":
            return args[0] >> node.value
        case "{}":
            joined_P = np.zeros_like(patterns_P)
            for arg, value_P in zip(node.args, args, strict=True):
                joined_P = joined_P << arg.width | value_P
            return joined_P
        case "r^":
            return sum((args[0] >> bit & 1 for bit in range(node.args[0].width)), np.zeros_like(patterns_P))
        case "r&":
            return (args[0] == 2 ** node.args[0].width - 1).astype(np.int64)
        case op:
            return _EVALUATE[op](*args)


def nodes(expr: Expr) -> list[Expr]:
    """Return all nodes once, operands before what uses them."""
    found: dict[Expr, None] = {}

    def visit(node: Expr) -> None:
        if node not in found:
            for arg in node.args:
                visit(arg)
            found[node] = None

    visit(expr)
    return list(found)


def write(expr: Expr, random: np.random.Generator) -> str:
    """Print an expression of one bit as a Verilog module `m` with the output `y`.

    Inputs are declared in the order of their pattern bits; all names are drawn from `NAMES`.

    Raises
    ------
    DataError
        If it needs more names than there are.
    """
    order = nodes(expr)
    uses = Counter(arg for node in order for arg in node.args)
    inputs = sorted((node for node in order if node.op == "in"), key=lambda node: node.value)
    extended = {arg for node in order if node.widens for arg in node.args}
    named = {node for node in order if node.width > 1 or uses[node] > 1 or node.op in _WORDS} | extended
    wires = [node for node in order if node in named and not node.is_leaf]
    if len(inputs) + len(wires) > len(NAMES):
        raise DataError(f"circuit: needs {len(inputs) + len(wires)} names; there are {len(NAMES)}")
    drawn = [NAMES[i] for i in random.permutation(len(NAMES))[: len(inputs) + len(wires)]]
    names = dict(zip((*inputs, *wires), drawn, strict=True))
    ports = [f"input {_range(node)}{names[node]}" for node in inputs]
    body = [f"wire {_range(node)}{names[node]} = {_operation(node, names)};" for node in wires]
    head = f"module m({', '.join([*ports, 'output y'])});"
    return "\n".join([head, *body, f"assign y = {_text(expr, names)};", "endmodule\n"])


def _range(node: Expr) -> str:
    return f"[{node.width - 1}:0] " if node.width > 1 else ""


def _text(node: Expr, names: dict[Expr, str]) -> str:
    return names[node] if node in names else _operation(node, names)


def _operation(node: Expr, names: dict[Expr, str]) -> str:
    args = [_text(arg, names) for arg in node.args]
    match node.op:
        case "const":
            return str(node.value)
        case "[]":
            return f"{args[0]}[{node.value}]"
        case "{}":
            return "{" + ", ".join(args) + "}"
        case "~" | "r&" | "r|" | "r^":
            return f"({node.op[-1]}{args[0]})" if node.op[0] == "r" else f"~{args[0]}"
        case "?:":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        case op:
            return f"({args[0]} {op} {args[1]})"


def encode(text: str) -> np.ndarray:
    """Return Verilog as tokens, int16, shape (T,).

    Raises
    ------
    DataError
        If a word is not in the vocabulary.
    """
    words = _TOKEN.findall(text)
    if unknown := [word for word in words if word not in _CODES]:
        raise DataError(f"verilog: {unknown[0]!r} is not in the vocabulary of generated circuits")
    return np.array([_CODES[word] for word in words], dtype=np.int16)


def decode(tokens_T: np.ndarray) -> str:
    """Return tokens as Verilog that synthesises to the same circuit; padding is left out."""
    return " ".join(VOCABULARY[token] for token in tokens_T if token).replace("; ", ";\n") + "\n"

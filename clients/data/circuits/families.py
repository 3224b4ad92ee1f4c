"""Where circuits come from: random expressions, arithmetic and control written by rules, and cones of benchmark netlists.

Each family draws expressions without end from one random generator; `make` keeps what is new and fits. The benchmark families
are cones of up to `max_inputs` inputs around random gates of ISCAS-85, ITC-99 and EPFL netlists, as the package circuitgraph
ships them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from .extra import extra
from .verilog import Expr, nodes

Family = Literal["random", "arithmetic", "control", "iscas", "itc", "epfl"]
FAMILIES: tuple[Family, ...] = get_args(Family)
BENCHMARKS: dict[Family, tuple[str, ...]] = {
    "iscas": ("c432", "c499", "c880", "c1355", "c1908", "c2670", "c3540", "c5315", "c6288", "c7552"),
    "itc": ("b17_C", "b20_C", "b22_C"),
    "epfl": ("adder", "bar", "max", "sin", "cavlc", "ctrl", "dec", "i2c", "int2float"),
}
"""Netlists of each benchmark family, by their names in circuitgraph; the larger ones of each suite are left out, and `router`,
whose names its fast parser cannot read."""
OPERATIONS = ("logic", "select", "add", "multiply", "compare", "equal")
"""What the outermost operation of a circuit can be: none on words and no choice, `?:`, `+` or `-`, `*`, `<`, `==`.

Adding and subtracting are one: a - b is ~(~a + b), so no function tells them apart once inversions do not count.
"""
CONE_GATES = 24
"""Gates at most in a cone (our choice: what 160 tokens of Verilog can say)."""

Random = np.random.Generator
Gates = dict[str, tuple[str, tuple[str, ...]]]
"""Type and fan-ins of every node."""
_SHARES = {"&": 0.2, "|": 0.2, "^": 0.14, "~": 0.12, "?:": 0.14, "+": 0.05, "-": 0.05, "<": 0.05, "==": 0.05}
"""How often a random expression uses each operation (our choice)."""
_OPERATION = {"?:": "select", "+": "add", "-": "add", "*": "multiply", "<": "compare", "==": "equal"}
_JOIN = {"and": "&", "nand": "&", "or": "|", "nor": "|", "xor": "^", "xnor": "^", "buf": "", "not": ""}
_INVERTING = ("nand", "nor", "xnor", "not")


def draw(family: Family, random: Random, min_inputs: int, max_inputs: int) -> Iterator[Expr]:
    """Yield expressions of one bit, without end, with up to `max_inputs` input bits numbered from 0."""
    while True:
        inputs = int(random.integers(min_inputs, max_inputs + 1))
        yield _numbered(cone(family, random, inputs) if family in BENCHMARKS else RULES[family](random, inputs))


def operation(expr: Expr) -> int:
    """Return the position in `OPERATIONS` of the operation nearest to the output, the first operand's first among equals."""
    pending = [expr]
    for node in pending:
        if node.op in _OPERATION:
            return OPERATIONS.index(_OPERATION[node.op])
        pending += node.args
    return OPERATIONS.index("logic")


def expression(random: Random, inputs: int) -> Expr:
    """Join inputs, each used at least once, by random operations until one bit is left."""
    pool = [Expr("in", value=i) for i in range(inputs)]
    pool += [pool[i] for i in random.integers(inputs, size=random.integers(0, inputs // 2 + 1))]
    while len(pool) > 1:
        pool = [pool[i] for i in random.permutation(len(pool))]
        op = str(random.choice(list(_SHARES), p=list(_SHARES.values())))
        if op == "~":
            pool.append(Expr("~", (pool.pop(),)))
        elif op == "?:" and len(pool) > 2:
            pool.append(Expr("?:", (pool.pop(), pool.pop(), pool.pop())))
        elif op in ("+", "-", "<", "==") and len(pool) > 3:
            high, low = (Expr("{}", (pool.pop(), pool.pop()), 2) for _ in range(2))
            pool.append(_one_bit(random, Expr(op, (high, low), 1 if op in ("<", "==") else 3)))
        elif op in ("&", "|", "^"):
            pool.append(Expr(op, (pool.pop(), pool.pop())))
    return pool[0]


def arithmetic(random: Random, inputs: int) -> Expr:
    """Compute with two words, one of which may be computed itself, and take one bit of what comes out."""
    words = _words(random, inputs)
    if len(words) > 2 or random.random() < 0.5:
        left = words.pop(random.integers(len(words)))
        constant = Expr("const", width=2, value=int(random.integers(1, 4)))
        words.append(_operated(random, ("+", "-", "*"), left, words.pop() if len(words) > 1 else constant))
    if len(words) == 1:
        words.append(Expr("const", width=2, value=int(random.integers(1, 4))))
    return _one_bit(random, _operated(random, ("+", "-", "*", "<", "=="), *(words[i] for i in random.permutation(2))))


def control(random: Random, inputs: int) -> Expr:
    """Choose between data bits by decoded select words, flags and their priority: a chain of conditions."""
    select = Expr("in", width=2, value=inputs - 2)
    data = [Expr("in", value=i) for i in random.permutation(inputs - 2)]
    bits = (_inverted(random, bit) for bit in itertools.cycle(data))
    chosen = next(bits)
    for turn in range(int(random.integers(2, 5))):
        decoded = Expr("==", (select, Expr("const", width=2, value=int(random.integers(4)))))
        condition = decoded if turn == 0 or random.random() < 0.5 else next(bits)
        if random.random() < 0.4:
            condition = Expr(str(random.choice(("&", "|"))), (condition, next(bits)))
        chosen = Expr("?:", (condition, next(bits), chosen))
    return chosen


RULES: dict[Family, Callable[[Random, int], Expr]] = {"random": expression, "arithmetic": arithmetic, "control": control}
"""Families that are written by rules."""


def _operated(random: Random, operations: tuple[str, ...], left: Expr, right: Expr) -> Expr:
    op = str(random.choice(operations))
    if op in ("<", "=="):
        return Expr(op, (left, right))
    width = left.width + right.width if op == "*" else max(left.width, right.width) + 1
    return Expr(op, (left, right), min(width, 6))


def _one_bit(random: Random, word: Expr) -> Expr:
    if word.width == 1:
        return word
    if random.random() < 0.15:
        return Expr(str(random.choice(("r^", "r|", "r&"))), (word,))
    return Expr("[]", (word,), value=int(random.integers(word.width)))


def _inverted(random: Random, bit: Expr) -> Expr:
    return Expr("~", (bit,)) if random.random() < 0.3 else bit


def _words(random: Random, inputs: int) -> list[Expr]:
    """Cut the input bits into two or three words."""
    count = 2 if inputs < 6 else int(random.integers(2, 4))
    cuts = np.sort(random.choice(np.arange(1, inputs), size=count - 1, replace=False))
    starts = (0, *cuts.tolist(), inputs)
    return [Expr("in", width=end - start, value=start) for start, end in itertools.pairwise(starts)]


@functools.lru_cache(maxsize=32)
def gates(name: str) -> Gates:
    """Return type and sorted fan-ins of every node of a benchmark netlist, in an order that no hash decides.

    Raises
    ------
    DataError
        If circuitgraph is not installed.
    """
    circuitgraph = extra("circuitgraph")
    (path,) = (Path(circuitgraph.__file__).parent / "netlists").glob(f"{name}.*")
    circuit = circuitgraph.from_file(path, name, fast=path.suffix == ".v")
    return {node: (circuit.type(node), tuple(sorted(circuit.fanin(node)))) for node in sorted(circuit.nodes())}


def cone(family: Family, random: Random, inputs: int) -> Expr:
    """Cut a cone of at most `inputs` leaves out of a random netlist of the family, around a random gate."""
    netlist = gates(BENCHMARKS[family][random.integers(len(BENCHMARKS[family]))])
    root = list(netlist)[random.integers(len(netlist))]
    leaves = cut(netlist, root, random, inputs)
    return gate(netlist, root, {leaves[leaf]: Expr("in", value=i) for i, leaf in enumerate(random.permutation(len(leaves)))})


def cut(netlist: Gates, root: str, random: Random, inputs: int) -> list[str]:
    """Return at most `inputs` nodes that the gate `root` is a function of.

    The cut grows from the gate by replacing the leaf whose fan-ins add fewest leaves, at random among equals, which keeps
    reconvergent paths inside (as in Mishchenko et al., DAC 2006, section 4.1).
    """
    leaves = [root]
    for _ in range(CONE_GATES):
        growth = {leaf: len({*leaves, *netlist[leaf][1]}) - 1 for leaf in leaves if netlist[leaf][1]}
        best = [leaf for leaf, size in growth.items() if size == min(growth.values()) and size <= inputs]
        if not best:
            break
        leaf = best[random.integers(len(best))]
        leaves.remove(leaf)
        leaves += [fanin for fanin in netlist[leaf][1] if fanin not in leaves]
    return leaves


def gate(netlist: Gates, name: str, known: dict[str, Expr]) -> Expr:
    """Return a gate as an expression of the nodes that are known, and remember it with them."""
    if name not in known:
        kind, fanins = netlist[name]
        args = [gate(netlist, fanin, known) for fanin in fanins]
        joined = functools.reduce(lambda left, right: Expr(_JOIN[kind], (left, right)), args)
        known[name] = Expr("~", (joined,)) if kind in _INVERTING else joined
    return known[name]


def _numbered(expr: Expr) -> Expr:
    """Return the expression with its inputs numbered from 0 without gaps, in the order they had."""
    order = nodes(expr)
    rebuilt: dict[Expr, Expr] = {}
    first = 0
    for node in sorted((node for node in order if node.op == "in"), key=lambda node: node.value):
        rebuilt[node] = replace(node, value=first)
        first += node.width
    for node in order:
        if node.op != "in":
            rebuilt[node] = replace(node, args=tuple(rebuilt[arg] for arg in node.args))
    return rebuilt[expr]

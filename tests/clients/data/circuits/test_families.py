"""What is cut out of a benchmark computes what the benchmark does; what rules write is what they say."""

import circuitgraph
import numpy as np
import pytest
from circuit_interpreter import bits, value

from fedcosim.clients.data.circuits import FAMILIES, OPERATIONS, CircuitsOptions
from fedcosim.clients.data.circuits.families import BENCHMARKS, RULES, cut, draw, gate, gates, operation
from fedcosim.clients.data.circuits.netlist import exhaustive, response, simulate
from fedcosim.clients.data.circuits.synthesis import optimise, read
from fedcosim.clients.data.circuits.verilog import Expr, evaluate, nodes


def test_c17_is_its_six_nand_gates_under_all_patterns():
    """The smallest ISCAS-85 circuit, written down by hand, against parser, synthesis and simulator together."""
    folder = circuitgraph.__file__.removesuffix("__init__.py")
    with open(f"{folder}/netlists/c17_gates.v", "rb") as file:
        source = file.read()
    made = optimise(read(source, "verilog", CircuitsOptions()), CircuitsOptions())
    assert len(made) == 2
    outputs = [response(one.netlist, simulate(one.netlist, exhaustive(5))).tolist() for one in made.values()]
    expected = []
    for pattern in range(32):
        n1, n2, n3, n6, n7 = bits(pattern, 5)
        n10, n11 = not (n1 and n3), not (n3 and n6)
        n16, n19 = not (n2 and n11), not (n11 and n7)
        expected.append((not (n10 and n16), not (n16 and n19)))
    assert outputs == [list(column) for column in zip(*expected, strict=True)]


@pytest.mark.parametrize("name", ["c432", "c1908", "c3540", "b17_C", "b22_C", "cavlc", "ctrl"])
def test_a_cone_computes_what_the_benchmark_does(name):
    """The oracle parses with circuitgraph's own full parser, and evaluates gate by gate, one pattern at a time."""
    circuit, netlist, random = circuitgraph.from_lib(name), gates(name), np.random.default_rng(0)
    for root in random.choice(sorted(circuit.nodes()), 12):
        leaves = cut(netlist, str(root), random, 6)
        truth = evaluate(gate(netlist, str(root), {leaf: Expr("in", value=i) for i, leaf in enumerate(leaves)}), len(leaves))
        for pattern in range(2 ** len(leaves)):
            given = dict(zip(leaves, bits(pattern, len(leaves)), strict=True))
            assert truth[pattern] == value(circuit, str(root), given)


@pytest.mark.parametrize("name", [name for names in BENCHMARKS.values() for name in names])
def test_every_benchmark_can_be_read(name):
    netlist = gates(name)
    assert len(netlist) > 150
    assert all(fanin in netlist for _, fanins in netlist.values() for fanin in fanins)


@pytest.mark.parametrize("family", RULES)
def test_rules_number_their_inputs_without_gaps(family):
    drawn = draw(family, np.random.default_rng(0), 4, 7)
    for _ in range(50):
        expr = next(drawn)
        bits_used = sorted(bit for node in nodes(expr) if node.op == "in" for bit in range(node.value, node.value + node.width))
        assert bits_used == list(range(len(bits_used)))
        assert expr.width == 1


def test_the_operation_is_the_one_nearest_to_the_output():
    a, b, c = (Expr("in", width=2, value=2 * i) for i in range(3))
    total = Expr("+", (a, b), 3)
    assert OPERATIONS[operation(Expr("[]", (total,), value=1))] == "add"
    assert OPERATIONS[operation(Expr("<", (total, c)))] == "compare"
    assert OPERATIONS[operation(Expr("[]", (Expr("*", (c, total), 4),), value=1))] == "multiply"
    assert OPERATIONS[operation(Expr("&", (Expr("[]", (a,)), Expr("[]", (b,)))))] == "logic"


def test_only_the_benchmark_families_are_real(circuits):
    real = {FAMILIES[family] for family in circuits.families_N[circuits.real()]}
    assert real == set(BENCHMARKS)

"""What is computed about a netlist is what going through it one pattern and one fault at a time gives."""

import aigverse.algorithms
import numpy as np
import pytest
from circuit_interpreter import bits, run
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcosim.clients.data.circuits import Netlist, equivalent, restructured
from fedcosim.clients.data.circuits.layout import CHANNELS, SIDE, layout, place
from fedcosim.clients.data.circuits.netlist import detectability, exhaustive, response, simulate, to_aig
from fedcosim.core.errors import DataError


@st.composite
def netlists(draw) -> Netlist:
    inputs, gates = draw(st.integers(2, 5)), draw(st.integers(1, 10))
    pairs = [[draw(st.integers(0, 2 * (inputs + gate) - 1)) for _ in range(2)] for gate in range(gates)]
    return Netlist(inputs, np.array(pairs, dtype=np.int32), 2 * (inputs + gates - 1) + draw(st.integers(0, 1)))


quick = settings(max_examples=40)


@quick
@given(circuit=netlists())
def test_simulation_is_evaluation_pattern_by_pattern(circuit):
    values_GP = simulate(circuit, exhaustive(circuit.inputs))
    for pattern in range(2**circuit.inputs):
        values, output = run(circuit, bits(pattern, circuit.inputs))
        assert values_GP[:, pattern].tolist() == values
        assert response(circuit, values_GP)[pattern] == output


@quick
@given(circuit=netlists())
def test_detectability_counts_the_patterns_that_tell_a_stuck_node(circuit):
    patterns = [bits(pattern, circuit.inputs) for pattern in range(2**circuit.inputs)]
    right = [run(circuit, pattern)[1] for pattern in patterns]
    counted_G2 = [
        [
            np.mean([run(circuit, pattern, {node: stuck})[1] != good for pattern, good in zip(patterns, right, strict=True)])
            for stuck in (False, True)
        ]
        for node in range(circuit.inputs + len(circuit.fanins_A2))
    ]
    np.testing.assert_allclose(detectability(circuit, exhaustive(circuit.inputs)), counted_G2, atol=1e-7)


@quick
@given(circuit=netlists())
def test_aigverse_simulates_the_same_function(circuit):
    (table,) = aigverse.algorithms.simulate(to_aig(circuit))
    right = [run(circuit, bits(pattern, circuit.inputs))[1] for pattern in range(2**circuit.inputs)]
    assert [table.get_bit(pattern) for pattern in range(2**circuit.inputs)] == right


def test_restructured_circuits_are_equal_and_some_look_different(circuits):
    """Pairs of one function and two structures are what functional equivalence is trained on."""
    rows = range(0, len(circuits), 8)
    pairs = [(circuits.netlist(row), restructured(circuits.netlist(row))) for row in rows]
    assert all(equivalent(left, right) for left, right in pairs)
    assert any(left.fanins_A2.tolist() != right.fanins_A2.tolist() for left, right in pairs)


def test_a_circuit_is_not_equivalent_to_its_complement(circuits):
    circuit = circuits.netlist(0)
    assert not equivalent(circuit, Netlist(circuit.inputs, circuit.fanins_A2, circuit.output ^ 1))


def test_circuits_of_different_numbers_of_inputs_are_not_compared():
    left, right = (Netlist(inputs, np.array([[0, 2]], dtype=np.int32), 2 * inputs) for inputs in (2, 3))
    with pytest.raises(DataError, match="2 and 3 inputs"):
        equivalent(left, right)


def test_a_gate_between_two_pins_sits_between_them():
    """One AND gate is tied to both inputs at the left edge, 1/4 and 3/4 up, and the output at the right: their mean."""
    places = place(Netlist(2, np.array([[0, 2]], dtype=np.int32), 4))
    np.testing.assert_allclose(places, [[0, 0.25], [0, 0.75], [1 / 3, 0.5], [1, 0.5]])


def test_the_map_of_a_layout_counts_every_gate_and_pin_once(circuits):
    for row in range(0, len(circuits), 8):
        circuit = circuits.netlist(row)
        map_CHW = layout(circuit)
        assert map_CHW.shape == (len(CHANNELS), SIDE, SIDE)
        assert map_CHW[0].sum() == circuit.inputs + len(circuit.fanins_A2) + 1
        np.testing.assert_array_equal(map_CHW, circuits.layout_NCHW[row])

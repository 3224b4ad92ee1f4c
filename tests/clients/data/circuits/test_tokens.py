"""Tokens say all there is: every view leads back to the function, and names lead nowhere."""

import re

import aigverse.algorithms
import numpy as np
import pytest
from circuit_interpreter import bits, run

from fedcosim.clients.data.circuits import PAD, CircuitsOptions, equivalent, tokens
from fedcosim.clients.data.circuits.families import draw
from fedcosim.clients.data.circuits.netlist import from_aig
from fedcosim.clients.data.circuits.synthesis import read_modules
from fedcosim.clients.data.circuits.tokens import netlist, truth
from fedcosim.clients.data.circuits.verilog import NAMES, decode, encode, write
from fedcosim.core.errors import DataError

VIEWS = ["truth", "rtl", "netlist", "layout"]


@pytest.mark.parametrize("view", VIEWS)
def test_tokens_are_below_the_vocabulary_and_padding_is_last(circuits, view):
    made = tokens(circuits, view)
    assert made.ids_NT.dtype == np.int64
    assert made.ids_NT.min() >= PAD
    assert made.ids_NT.max() < made.vocabulary
    is_pad = made.ids_NT == PAD
    assert (is_pad[:, 1:] >= is_pad[:, :-1]).all()
    assert not is_pad.all(1).any()


def test_truth_tokens_decode_to_the_truth_table(circuits):
    for row, ids_T in enumerate(tokens(circuits, "truth").ids_NT):
        np.testing.assert_array_equal(truth(ids_T), circuits.truth_NP[row])


def test_netlist_tokens_decode_to_the_function(circuits):
    """The decoded netlist is evaluated one pattern at a time; the truth table came from the expression that was drawn."""
    for row, ids_T in enumerate(tokens(circuits, "netlist").ids_NT):
        decoded = netlist(ids_T)
        assert decoded.inputs == circuits.inputs_N[row]
        for pattern in range(0, 2**decoded.inputs, 5):
            assert run(decoded, bits(pattern, decoded.inputs))[1] == circuits.truth_NP[row, pattern]


def test_rtl_tokens_decode_to_the_function(circuits):
    """Yosys reads the decoded text and aigverse simulates it; neither knows the expression that was drawn."""
    rows = range(0, len(circuits), 3)
    texts = [decode(ids_T) for ids_T in tokens(circuits, "rtl").ids_NT[rows]]
    for row, aig in zip(rows, read_modules(texts, CircuitsOptions()), strict=True):
        (table,) = aigverse.algorithms.simulate(aig)
        count = 2 ** int(circuits.inputs_N[row])
        assert [table.get_bit(pattern) for pattern in range(count)] == circuits.truth_NP[row, :count].tolist()


def test_the_two_views_of_a_row_are_equivalent_by_sat(circuits):
    rows = range(0, len(circuits), 15)
    aigs = read_modules([circuits.rtl(row) for row in rows], CircuitsOptions())
    assert all(equivalent(from_aig(aig), circuits.netlist(row)) for row, aig in zip(rows, aigs, strict=True))


def test_encoding_keeps_every_word():
    text = "module m(input [1:0] v3, output y); assign y = (v3[0] == ~v3[1]); endmodule"
    assert decode(encode(text)).split() == re.findall(r"==|\w+|[^\w\s]", text)


def test_names_say_nothing_about_the_circuit():
    """The same circuit, printed twice, differs in names alone; and a place in the text can have any name."""
    expr = next(draw("random", np.random.default_rng(3), 6, 6))
    printed = [write(expr, np.random.default_rng(seed)) for seed in range(200)]
    assert len({re.sub(r"v\d+", "v", text) for text in printed}) == 1
    assert len({re.search(r"v\d+", text)[0] for text in printed}) > len(NAMES) * 0.8


def test_a_word_that_is_not_in_the_vocabulary_is_refused():
    with pytest.raises(DataError, match="'always' is not in the vocabulary"):
        encode("module m(input v1, output y); always")


@pytest.mark.parametrize(
    ("ids", "message"), [([1, 3], "odd number"), ([25, 1, 3], "topological order"), ([PAD] * 3, "odd number")]
)
def test_tokens_that_are_no_netlist_are_refused(ids, message):
    row = np.full(12, PAD)
    row[: len(ids)] = ids
    with pytest.raises(DataError, match=message):
        netlist(row)


def test_a_graph_has_an_edge_for_every_fan_in(circuits):
    (driver_E, reader_E), inverted_E = circuits.edges(0)
    circuit = circuits.netlist(0)
    gates = enumerate(circuit.fanins_A2.tolist(), circuit.inputs)
    expected = [(literal // 2, reader, literal % 2) for reader, pair in gates for literal in pair]
    expected.append((circuit.output // 2, circuit.inputs + len(circuit.fanins_A2), circuit.output % 2))
    assert sorted(zip(driver_E, reader_E, inverted_E, strict=True)) == sorted(expected)

"""The same options and seed give the same circuits; what cannot be made is refused before or says why."""

import sys
from pathlib import Path

import numpy as np
import pytest
from circuit_interpreter import bits, run

from fedcosim.clients.data.circuits import FAMILIES, CircuitsOptions, make
from fedcosim.clients.data.circuits.families import gates
from fedcosim.clients.data.circuits.functions import key, support
from fedcosim.clients.data.circuits.netlist import exhaustive, simulate
from fedcosim.core.errors import DataError, SpecError
from fedcosim.core.options import validate

FEW = {"random": 4, "arithmetic": 3, "iscas": 2}


def few(**fields) -> CircuitsOptions:
    return CircuitsOptions(**{"samples": FEW, "max_inputs": 6, **fields})


def cached(own_cache: Path) -> list[Path]:
    return sorted((own_cache.parent / "circuits").glob("*.npz"))


def test_every_family_has_as_many_circuits_as_asked_for(circuits, options):
    counts = np.bincount(circuits.families_N, minlength=len(FAMILIES))
    assert dict(zip(FAMILIES, counts.tolist(), strict=True)) == options.samples


def test_no_two_circuits_are_of_one_class_and_all_depend_on_all_inputs(circuits, options):
    assert len(np.unique(circuits.keys_N)) == len(circuits)
    for row, truth_P in enumerate(circuits.truth_NP):
        assert support(truth_P) == list(range(circuits.inputs_N[row]))
        assert key(truth_P) == circuits.keys_N[row]
    assert circuits.inputs_N.min() >= options.min_inputs
    assert circuits.exact_N.all()


def test_labels_are_what_evaluating_the_netlist_gives(circuits):
    """Counts, levels and probabilities are taken from the evaluation of single patterns, not from the simulator."""
    for row in range(0, len(circuits), 20):
        circuit = circuits.netlist(row)
        patterns = 2**circuit.inputs
        nodes, outputs = zip(*(run(circuit, bits(pattern, circuit.inputs)) for pattern in range(patterns)), strict=True)
        count = circuit.inputs + len(circuit.fanins_A2)
        np.testing.assert_allclose(circuits.probability_NG[row, :count], np.mean(nodes, axis=0), atol=1e-6)
        assert circuits.probability_NG[row, count] == pytest.approx(np.mean(outputs)) == circuits.ones()[row]
        np.testing.assert_array_equal(circuits.truth_NP[row, :patterns], outputs)
        levels = [0] * circuit.inputs
        for left, right in circuit.fanins_A2.tolist():
            levels.append(1 + max(levels[left // 2], levels[right // 2]))
        assert circuits.levels_NG[row, :count].tolist() == levels
        assert circuits.depth_N[row] == levels[circuit.output // 2]
        assert circuits.ands_N[row] == len(circuit.fanins_A2)


def test_the_output_shows_stuck_at_0_as_often_as_it_is_1(circuits):
    for row in range(0, len(circuits), 20):
        output = int(circuits.inputs_N[row] + circuits.ands_N[row])
        ones = circuits.ones()[row]
        np.testing.assert_allclose(circuits.detectability_NG2[row, output], [ones, 1 - ones], atol=1e-6)


def test_the_same_seed_gives_the_same_circuits(tmp_path, monkeypatch):
    """Made twice, in two empty caches, not read back."""
    made = []
    for folder in ("one", "other"):
        monkeypatch.setenv("FEDCOSIM_CACHE", str(tmp_path / folder))
        made.append(make(few(), seed=5))
    for name, column in made[0].columns().items():
        np.testing.assert_array_equal(column, made[1].columns()[name], err_msg=name)


def test_a_cached_entry_is_what_was_made_and_a_damaged_one_is_made_again(own_cache):
    first = make(few(), seed=5)
    (entry,) = cached(own_cache)
    second = make(few(), seed=5)
    entry.write_bytes(entry.read_bytes()[:1000])
    third = make(few(), seed=5)
    for name, column in first.columns().items():
        np.testing.assert_array_equal(column, second.columns()[name], err_msg=name)
        np.testing.assert_array_equal(column, third.columns()[name], err_msg=name)


def test_another_seed_or_limit_is_another_entry(own_cache):
    one, other = make(few(samples={"random": 3}), seed=5), make(few(samples={"random": 3}), seed=6)
    make(few(samples={"random": 3}, max_tokens=90), seed=5)
    make(few(samples={"random": 3}, timeout_s=77), seed=5)  # how long it may take changes nothing
    assert set(one.keys_N) != set(other.keys_N)
    assert len(cached(own_cache)) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": {}}, "nothing to make"),
        ({"samples": {"random": 0}}, "greater than or equal to 1"),
        ({"samples": {"vhdl": 3}}, "'random', 'arithmetic', 'control'"),
        ({"min_inputs": 8, "max_inputs": 5}, "choose at most max_inputs = 5"),
        ({"max_inputs": 11}, "less than or equal to 10"),
        ({"max_nodes": 4}, "greater than or equal to 8"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"seed": 1}, "unknown field"),
    ],
)
def test_options_that_cannot_be_are_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        validate(CircuitsOptions, fields, "circuits")


def test_a_family_that_is_used_up_says_how_many_there_are():
    """Few functions of three inputs exist, whatever is drawn."""
    with pytest.raises(DataError, match=r"circuits.samples.random = 50: .* only \d+ different functions"):
        make(CircuitsOptions(samples={"random": 50}, min_inputs=3, max_inputs=3), seed=1)


def test_a_missing_library_names_the_package_that_has_one():
    with pytest.raises(DataError, match=r"circuits.liberty = '/no/cells.lib': .* qflow-tech-osu018"):
        make(few(liberty=Path("/no/cells.lib")), seed=1)


@pytest.mark.parametrize(
    ("package", "samples"), [("pyosys", {"random": 2}), ("aigverse", {"random": 2}), ("circuitgraph", {"itc": 2})]
)
def test_a_missing_package_names_the_extra_that_has_it(package, samples, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    gates.cache_clear()
    with pytest.raises(DataError, match=rf"the package {package} is missing; pip install 'fedcosim\[circuits\]'"):
        make(CircuitsOptions(samples=samples), seed=1)


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDCOSIM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set FEDCOSIM_CACHE to another folder"):
        make(few(samples={"random": 1}), seed=1)


def test_simulation_of_random_patterns_approaches_the_exact_probabilities(circuits):
    """What large uploads get: 15000 patterns, of which a share of 1/2 has a standard error of 0.004."""
    circuit = circuits.netlist(int(circuits.ands_N.argmax()))
    random_IP = np.random.default_rng(0).random((circuit.inputs, 15_000)) < 0.5
    exact_G = simulate(circuit, exhaustive(circuit.inputs)).mean(1)
    np.testing.assert_allclose(simulate(circuit, random_IP).mean(1), exact_G, atol=0.02)

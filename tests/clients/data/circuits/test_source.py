"""The houses of a design chain as silos: everybody has what the spec says, and nobody is tested on what anybody trained on."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
import torch

from fedcosim.clients.data import gather
from fedcosim.clients.data.circuits import equivalent
from fedcosim.clients.data.circuits.tokens import netlist
from fedcosim.clients.data.silos import Classes, Function
from fedcosim.core.errors import DataError, SpecError
from fedcosim.server.report import record_schema
from fedcosim.server.report.comparison import comparison, comparison_tables
from fedcosim.server.report.page import final_table
from fedcosim.server.report.reading import load_record
from fedcosim.server.run import run
from fedcosim.server.spec import override, parse

CHAIN = {
    "name": "chain",
    "federation": {"clients": 6, "per_round": 3, "rounds": 2},
    "data": {
        "source": "circuits",
        "circuits": {"samples": {"random": 120, "control": 60}, "max_inputs": 6},
        "silos": {
            "houses": {"rtl": 2, "netlist": 2, "integrator": 2},
            "circuits": {"rtl": 20, "netlist": 20, "integrator": 20},
            "gallery": 12,
            "tested": 10,
            "public": 5,
        },
    },
    "model": {"name": "towers", "dim": 16, "depth": 2, "heads": 2},
    "strategy": {"name": "fedcola", "participation": 0.5},
    "train": {"optimizer": "adam", "lr": 1e-3},
    "evaluate": {"every": 1},
}


def chain(*overrides: str):
    return parse(override(CHAIN, overrides))


@pytest.mark.parametrize("seed", [1, 2])
def test_silos_hold_what_was_asked_for_and_no_function_is_trained_on_and_tested(seed):
    data = gather(chain().data, seed)
    assert data.type_of == ["rtl"] * 2 + ["netlist"] * 2 + ["rtl+netlist"] * 2
    assert [set(data.train(client).views) for client in (0, 2, 4)] == [{"rtl"}, {"netlist"}, {"rtl", "netlist"}]
    trained = [set(data.train(client).keys_N.tolist()) for client in range(6)]
    tested = [set(data.test(client).keys_N.tolist()) for client in range(6)]
    public = set(data.public.keys_N.tolist())
    assert [len(keys) for keys in trained] == [20] * 6
    assert len(set().union(*trained)) == 120
    assert not set().union(*trained) & (set().union(*tested) | public)
    assert not set().union(*tested) & public
    assert not tested[4] & tested[5]
    assert [len(keys) for keys in tested] == [10] * 4 + [12] * 2
    assert data.types["rtl"].target == data.types["netlist"].target == Classes(4)


def test_seeds_are_judged_on_the_same_functions_and_train_on_others():
    one, other = (gather(chain().data, seed) for seed in (1, 2))
    assert one.test(4).keys_N.tolist() == other.test(4).keys_N.tolist()
    assert one.train(4).keys_N.tolist() != other.train(4).keys_N.tolist()


def test_shuffled_labels_are_the_same_labels_in_another_order():
    true, mixed = (gather(chain(*changes).data, 1) for changes in ([], ["data.silos.mixing=shuffled"]))
    assert np.bincount(true.train(0).labels_N).tolist() == np.bincount(mixed.train(0).labels_N).tolist()
    assert true.train(0).labels_N.tolist() != mixed.train(0).labels_N.tolist()
    assert true.test(0).labels_N.tolist() == mixed.test(0).labels_N.tolist()


def test_shuffled_pairs_are_the_same_circuits_matched_at_random():
    true, mixed = (gather(chain(*changes).data, 1) for changes in ([], ["data.silos.pairing=shuffled"]))
    ours, theirs = true.train(4).views, mixed.train(4).views
    assert torch.equal(ours["rtl"], theirs["rtl"])
    assert not torch.equal(ours["netlist"], theirs["netlist"])
    assert sorted(ours["netlist"].tolist()) == sorted(theirs["netlist"].tolist())
    assert torch.equal(true.test(4).views["netlist"], mixed.test(4).views["netlist"])


def test_numbers_and_functions_can_be_told_instead_of_classes():
    labels = 'data.silos.labels={"rtl"="function", "netlist"="ands"}'
    data = gather(chain(labels, "data.silos.bins=0", "data.silos.variants=2").data, 1)
    rtl, netlists = data.train(0), data.train(2)
    assert data.types["rtl"].target == Function(2**6)
    assert (rtl.labels_N.shape, rtl.labels_N.dtype) == ((20, 64), torch.bool)
    for (usual_T, other_T), ands in zip(netlists.views["netlist"].numpy(), netlists.labels_N.tolist(), strict=True):
        usual, other = netlist(usual_T), netlist(other_T)
        assert ands == len(usual.fanins_A2)
        assert equivalent(usual, other)
    views = netlists.views["netlist"]
    assert (views[:, 0] != views[:, 1]).any(1).float().mean() > 0.2  # restructured, where that changed something
    target = data.types["netlist"].target
    assert target.log
    assert np.log(netlists.labels_N).mean() == pytest.approx(target.mean, abs=target.deviation)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (['data.silos.houses={"rtl"=6}'], SpecError, "has no 'integrator'"),
        (['data.silos.labels={"rtl"="depth"}'], SpecError, "silos.labels.netlist: missing"),
        (["federation.clients=5"], SpecError, "federation.clients = 5: .data. makes 2 rtl, 2 netlist, 2 rtl.netlist; choose 6"),
        (["data.silos.gallery=10"], SpecError, "data.silos.gallery"),
        (["data.silos.gallery=100"], DataError, "2 integrators need 200 functions"),
        (["data.silos.public=1000"], DataError, "data.silos.public = 1000"),
        (['data.silos.circuits={"rtl"=200, "netlist"=20, "integrator"=20}'], DataError, "different functions"),
        (["data.silos.bins=1"], SpecError, "data.silos.bins = 1: one class tells nothing"),
        (["data.circuits.liberty=/nowhere.lib"], DataError, "nowhere.lib"),
    ],
)
def test_what_cannot_be_made_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        gather(chain(*changes).data, 1)


def test_silos_of_numbers_and_functions_have_figures_of_their_own(runs, local_ray):
    labels = 'data.silos.labels={"rtl"="function", "netlist"="probability"}'
    changes = ("data.silos.bins=0", "data.silos.variants=2", "federation.rounds=1", "engine.workers=1")
    folder = run(chain(labels, *changes), runs)
    final = json.loads((folder / "result.json").read_text())["final"]
    assert {"spearman_rtl", "spearman_balanced_rtl", "mae_netlist", "mae_constant_netlist", "r2_netlist"} <= final.keys()
    assert not {"mae", "accuracy_rtl", "accuracy_mean_rtl"} & final.keys()
    assert final["majority_class"] is None
    jsonschema.validate(json.loads((folder / "result.json").read_text()), record_schema())
    (shown,) = (table for table in comparison_tables(comparison([folder])) if table.title == "Runs: client types")
    assert {"correlation, rtl", "correlation, balanced, rtl", "MAE, netlist", "R², netlist"} <= set(shown.head)
    labels = {row[1]: row[0] for row in final_table(load_record(folder)).rows}
    assert labels["r2_netlist"] == "share of the variance explained, mean over netlist clients"


def test_a_design_chain_learns_from_spec_to_record(runs, local_ray):
    """Chance is stated beside what was reached, and the gallery is the one that was asked for."""
    result = json.loads((run(chain("federation.rounds=1", "engine.workers=1"), runs) / "result.json").read_text())
    final = result["final"]
    assert (final["retrieval_gallery"], result["partition"]["types"]["rtl+netlist"]["clients"]) == (12, 2)
    assert final["retrieval_chance"] == pytest.approx(2 * (1 + 5 + 10) / 12)
    assert {"accuracy_rtl", "accuracy_netlist", "recall_at_1_rtl_to_netlist"} <= final.keys()

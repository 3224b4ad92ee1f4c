"""Compressed uploads and broadcasts in whole runs: true byte counts, models that both ends agree on, bad uploads left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, FedMedian
from grids import HereGrid
from outcomes import final_bytes, result
from small import small

from fedcosim.clients.client_app import Workbench
from fedcosim.clients.client_app import app as client_app
from fedcosim.clients.compress import BLOB, UPLOADED, Uploaded, base_of
from fedcosim.compression import CODECS
from fedcosim.core.errors import PayloadError, SpecError
from fedcosim.core.records import array_bytes, array_record, layout, tensors
from fedcosim.server.grid import RayGrid
from fedcosim.server.rounds import Roster, Rounds
from fedcosim.server.run import resumable, resume, run
from fedcosim.server.spec import Experiment, from_run_config, parse

TOPK = ("upload.codec=topk", "upload.keep=0.1")


def initial(bench: Workbench):
    return array_record({key: bench.initial[key].clone() for key in bench.shared_keys})


def update_of(bench: Workbench, client, reply: Message) -> dict[str, torch.Tensor]:
    """Decode what a client uploaded."""
    sent = RecordDict({"arrays": client.arrays})
    content = bench.wire.decoded(reply.content, sent, layout(client.arrays))
    return {key: tensor.clone() for key, tensor in tensors(next(iter(content.array_records.values()))).items()}


@pytest.mark.parametrize("codec", CODECS.names())
def test_every_codec_works_with_the_client(codec, one_client):
    """What arrives is the plain client's update, up to what the reply says was lost of the delta; bytes are the blob's."""
    plain, packed = one_client(small("fedavg")), one_client(small("fedavg", f"upload.codec={codec}"))
    exact = {key: t.clone() for key, t in tensors(plain.ask(0).content.array_records["arrays"]).items()}
    reply = packed.ask(0)
    blob = reply.content.array_records["arrays"][BLOB].numpy()
    told = Uploaded.of(reply.content)
    assert blob.nbytes < array_bytes(RecordDict({"arrays": plain.arrays}))
    assert array_bytes(reply.content) == reply.content.array_records["arrays"].count_bytes()
    update, base = update_of(packed.bench, packed, reply), base_of(RecordDict({"arrays": plain.arrays})).tensors
    lost = sum(float((exact[key] - update[key]).square().sum()) for key in exact)
    moved = sum(float((exact[key] - base[key]).square().sum()) for key in exact)
    assert (lost / moved) ** 0.5 == pytest.approx(told.error, rel=1e-3, abs=1e-5)


def test_what_is_lost_is_kept_in_the_clients_state(one_client):
    client = one_client(small("fedper", *TOPK))
    client.ask(0, number=1)
    kept = client.context(0).state
    assert {"local", "upload"} <= set(kept)
    assert all(name.startswith("residual/") for name in kept["upload"])
    assert max(float(x.abs().max()) for x in tensors(kept["upload"]).values()) > 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory, local_ray) -> list[dict]:
    """The rounds of a run without compression."""
    return result(run(small("fedavg"), tmp_path_factory.mktemp("runs")))["rounds"]


def test_bytes_are_those_of_the_blobs_and_dense_bytes_those_of_a_plain_run(plain, runs):
    packed = result(run(small("fedavg", "upload.codec=fp16"), runs, "packed"))["rounds"]
    for dense, line in zip(plain, packed, strict=True):
        assert line["bytes_up_dense"] == dense["bytes_up"]
        assert 0.5 < line["bytes_up"] / dense["bytes_up"] < 0.6
        assert 0 < line["upload"]["error"] < 1e-3
        assert "upload" not in dense


@pytest.mark.parametrize("strategy", ["fedperfix", pytest.param("fedmedian", marks=pytest.mark.slow)])
def test_bytes_do_not_depend_on_workers_or_resumes(strategy, runs, local_ray):
    """Also where a codec keeps residuals, draws random numbers, or the broadcast is compressed too."""
    spec = small(strategy, *TOPK, "download.codec=qsgd", "download.bits=8")
    one = run(spec, runs, "one")
    two = run(small(strategy, *TOPK, "download.codec=qsgd", "download.bits=8", "engine.workers=2"), runs, "two")
    assert final_bytes(one) == final_bytes(two)
    first = small(strategy, *TOPK, "download.codec=qsgd", "download.bits=8", "federation.rounds=2")
    half = run(first, runs, "half")
    assert final_bytes(resume(half, resumable(half, ["federation.rounds=3"]))) == final_bytes(one)


def test_clients_work_on_what_they_received_of_a_compressed_broadcast(one_client):
    """Trained from the decoded model, to the bit, and a delta is relative to that one."""
    spec = small("fedavg", "download.codec=int4", "upload.codec=fp16", "upload.target=delta")
    bench = Workbench(spec)
    sent, _ = bench.wire.broadcast(RecordDict({"arrays": initial(bench)}), 1)
    opened = bench.wire.opened(sent)
    assert list(sent["arrays"]) == [BLOB]
    blind, told = one_client(spec), one_client(small("fedavg", "upload.codec=fp16", "upload.target=delta"))
    blind.arrays, told.arrays = sent["arrays"], opened["arrays"]
    replies = [client.ask(0).content.array_records["arrays"][BLOB].data for client in (blind, told)]
    assert replies[0] == replies[1]
    assert not torch.equal(tensors(opened["arrays"])["head.weight"], bench.initial["head.weight"])


def test_a_compressed_broadcast_is_counted_and_judged(plain, runs):
    packed = result(run(small("fedavg", "download.codec=int8"), runs, "packed"))
    line = packed["rounds"][0]
    assert line["download"]["bytes_dense"] == plain[0]["bytes_down"] > 2.5 * line["bytes_down"]
    assert 0 < line["download"]["error"] < 0.02


def spoiling_app(client: int) -> ClientApp:
    """The usual client app, except that what one client uploads is damaged on the way."""
    app = ClientApp()

    def spoil(message: Message, context: Context, call_next) -> Message:
        reply = call_next(message, context)
        if int(context.node_config["partition-id"]) == client:
            blob = reply.content["arrays"][BLOB].numpy()
            blob[-1] ^= 1
            reply.content["arrays"] = array_record({BLOB: blob})
        return reply

    @app.train(mods=[spoil])
    def train(message: Message, context: Context) -> Message:
        return client_app(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return client_app(message, context)

    return app


@pytest.fixture
def roster() -> Roster:
    return Roster({node: node for node in range(6)}, range(6), range(6))


def one_round(spec: Experiment, grid, roster: Roster, strategy=FedAvg):
    bench = Workbench(spec)
    flower = strategy(fraction_train=1.0, min_train_nodes=6, min_available_nodes=1, min_evaluate_nodes=1)
    return next(Rounds(flower, grid, roster, spec.seed, 1, wire=bench.wire).run(initial(bench)))


@pytest.mark.parametrize("average", [False, True])
def test_a_damaged_upload_is_left_out_and_named(average, tmp_path, roster, local_ray):
    spec = small("fedavg", *TOPK)
    bench = Workbench(spec)
    grid = RayGrid(spoiling_app(2), spec.to_run_config(), 6, tmp_path, workers=2, average=average, wire=bench.wire)
    try:
        outcome = one_round(spec, grid, roster)
    finally:
        grid.close()
    assert sorted(outcome.tally.replied) == [0, 1, 3, 4, 5]
    (client, reason), *others = outcome.tally.failed
    assert (client, others) == (2, [])
    assert "checksum" in reason
    assert 2 not in grid.states


def test_other_grids_get_the_same_model(tmp_path, roster, local_ray):
    """Nobody decodes for them on the way: the rounds do."""
    spec = small("fedavg", *TOPK, "download.codec=fp16")
    ray_grid = RayGrid(client_app, spec.to_run_config(), 6, tmp_path, workers=1, wire=Workbench(spec).wire)
    try:
        ours = one_round(spec, ray_grid, roster, FedMedian)
    finally:
        ray_grid.close()
    other = one_round(spec, HereGrid(spec), roster, FedMedian)
    assert {k: a.data for k, a in ours.arrays.items()} == {k: a.data for k, a in other.arrays.items()}
    assert ours.tally.bytes_up == other.tally.bytes_up < 0.3 * other.tally.bytes_up_dense
    damaged = one_round(spec, HereGrid(spec, spoiling_app(1)), roster)
    assert [client for client, _ in damaged.tally.failed] == [1]


def test_the_aggregate_is_the_mean_of_what_was_decoded(tmp_path, roster, local_ray):
    """In double precision, of clients whose factors have ranks of their own: averaging factors would be something else."""
    spec = small("fedavg", "upload.codec=svd", "upload.ratio=0.4", "upload.ranks=stable_rank", "federation.per_round=6")
    bench, grid = Workbench(spec), HereGrid(spec)
    outcome = one_round(spec, grid, roster)
    sent, expected = RecordDict({"arrays": initial(bench)}), layout(initial(bench))
    replies = [bench.wire.decoded(content, sent, expected) for content in grid.answers.values()]
    weights = np.array([content["metrics"]["num-examples"] for content in replies], dtype=np.float64)
    for key, array in outcome.arrays.items():
        updates = np.stack([content["arrays"][key].numpy().astype(np.float64) for content in replies])
        mean = np.tensordot(weights / weights.sum(), updates, 1)
        assert np.abs(array.numpy() - mean).max() <= 1e-6 * max(1.0, np.abs(mean).max())


@pytest.mark.parametrize("missing", ["encoding", "record"])
def test_an_update_that_is_not_encoded_as_agreed_is_refused(missing, one_client):
    client = one_client(small("fedavg", *TOPK))
    reply = client.ask(0).content
    if missing == "encoding":
        reply["arrays"] = client.arrays
    else:
        del reply[UPLOADED]
    with pytest.raises(PayloadError, match=BLOB if missing == "encoding" else UPLOADED):
        client.bench.wire.decoded(reply, RecordDict({"arrays": client.arrays}), layout(client.arrays))


def test_generators_can_be_uploaded_in_half_precision(runs, local_ray):
    few = ("federation.rounds=1", "strategy.samples=40", "strategy.generator.steps=2", "upload.target=weights")
    line = result(run(small("feddiff", *few, "upload.codec=fp16"), runs))["rounds"][0]
    assert 0.49 < line["bytes_up"] / line["bytes_up_dense"] < 0.56
    assert 0 < line["upload"]["error"] < 1e-3


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["upload.codec=zip"], "upload.codec = 'zip': choose one of fp16"),
        (["upload.target=delta"], "upload.codec: missing"),
        (["upload.codec=topk", "upload.keep=0"], "upload.keep = 0: "),
        (["download.codec=zip"], "download.codec = 'zip': choose one of fp16"),
        (["upload.codec=topk", "upload.rank=4"], "upload.rank: unknown field"),
        (['upload.codec=["int8","fp16"]'], "upload: codec = ['int8', 'fp16']: 'int8' leaves nothing for 'fp16'"),
        (["upload.codec=topk", "upload.target=model"], "upload.target = 'model': "),
        (["download.codec=asvd"], "download: codec = ['asvd']: 'asvd' calibrates itself on data"),
        (["download.codec=int8", "download.target=delta"], "download.target: unknown field"),
        (["upload.codec=asvd", "privacy.epsilon=8"], "upload.codec = 'asvd': it calibrates itself on private data"),
        (["strategy.name=feddiff", "federation.rounds=1", "upload.codec=fp16"], "upload.target = 'delta': strategy 'feddiff'"),
        (
            ["strategy.name=feddiff", "federation.rounds=1", "upload.codec=asvd", "upload.target=weights"],
            "upload.codec = 'asvd': it calibrates itself on a classifier",
        ),
        (["strategy.name=feddiff", "federation.rounds=1", "download.codec=fp16"], "download: strategy 'feddiff' broadcasts no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_compressed_so_is_refused(overrides, sentence):
    with pytest.raises(SpecError) as error:
        small("fedavg", *overrides)
    assert any(problem.startswith(sentence) for problem in error.value.problems), error.value.problems


def test_the_sections_survive_every_way_a_spec_travels():
    spec = small("fedavg", 'upload.codec=[{codec="asvd",ratio=0.3},"int8"]', "upload.target=weights", "download.codec=bf16")
    assert spec.upload is not None
    assert [options.codec for options in spec.upload.codec] == ["asvd", "int8"]
    assert parse(spec.to_dict()) == from_run_config(spec.to_run_config()) == from_run_config({"spec": spec.to_toml()}) == spec


def test_a_run_with_a_calibrated_chain_finishes(runs: Path, local_ray):
    spec = small("fedavg", 'upload.codec=["asvd","int8"]', "upload.ratio=0.6")
    record = result(run(spec, runs))
    assert record["status"] == "finished"
    assert all(line["failed"] == [] and line["bytes_up"] < 0.4 * line["bytes_up_dense"] for line in record["rounds"])


def test_a_smaller_upload_takes_less_simulated_time(runs, local_ray):
    """The link carries the blob: what is saved of the bytes is saved of the time."""
    slow = ('hardware.devices={"raspberry-pi-5"=1}', "hardware.uplink_bits_per_s=1e5", "hardware.round_trip_s=0")
    upload_s = {}
    for name, codec in (("plain", ()), ("packed", ("upload.codec=int4",))):
        line = result(run(small("fedavg", "federation.rounds=1", *slow, *codec), runs, name))["rounds"][0]
        upload_s[name] = line["straggler"]["upload_s"]
        assert upload_s[name] == pytest.approx(8 * line["bytes_up"] / 4 / 1e5)
    assert upload_s["packed"] < 0.4 * upload_s["plain"]

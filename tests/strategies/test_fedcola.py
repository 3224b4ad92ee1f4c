"""FedCola from spec to record: what travels, who is asked, what a run leaves behind, and what is refused."""

from __future__ import annotations

import itertools
import os
import re
import signal

import jsonschema
import numpy as np
import pytest
import ray
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from grids import HereGrid
from multimodal import small_multimodal
from outcomes import final_bytes, result
from small import small

from fedcosim.clients.client_app import app as client_app
from fedcosim.clients.data.silos import Classes, SiloType, Tokens, named
from fedcosim.clients.models.towers import TowersOptions, part_of
from fedcosim.clients.workbench import bench_for
from fedcosim.core.errors import RoundError, SpecError
from fedcosim.core.records import WEIGHT_KEY, array_bytes, array_record, tensors
from fedcosim.server.grid import RayGrid
from fedcosim.server.record import Checkpoints
from fedcosim.server.report import record_schema
from fedcosim.server.report.reading import loss_curves
from fedcosim.server.rounds import Rounds
from fedcosim.server.run import resumable, resume, run
from fedcosim.server.server_app import roster, setting
from fedcosim.strategies.creamfl import ensemble
from fedcosim.strategies.fedcola import FedColaOptions
from fedcosim.strategies.options import Setting

PLAIN = ("strategy.share=none", "strategy.compensation=none", "strategy.gates=none")


class Federation:
    """A strategy and its clients in this process, a round at a time."""

    def __init__(self, *overrides: str, app: ClientApp = client_app) -> None:
        self.spec = small_multimodal(*overrides)
        self.bench, self.grid = bench_for(self.spec).checked(), HereGrid(self.spec, app)
        self.roster = roster(self.bench, {client: client for client in range(self.bench.data.num_clients)})
        self.strategy = self.spec.strategy.build(setting(self.bench, self.roster))
        self.arrays = array_record(self.bench.initial)

    def messages(self, number: int = 1) -> list[Message]:
        return list(self.strategy.configure_train(number, self.arrays, ConfigRecord(), self.grid))

    def rounds(self, **settings) -> Rounds:
        kept = {"strategy": self.strategy, "grid": self.grid, "roster": self.roster, "seed": self.spec.seed}
        return Rounds(**kept, last=3, expects=self.strategy.expects, wire=self.bench.wire, **settings)

    def type_of(self, message: Message) -> str:
        return self.bench.data.type_of[message.metadata.dst_node_id]


@pytest.fixture(scope="module")
def federation(data_cache) -> Federation:
    return Federation()


def test_cohorts_are_of_each_type_and_of_the_seed(federation):
    """max(floor(r K), 1) of four clients each at r = 1/2, the same for the same seed and round."""
    drawn = [[m.metadata.dst_node_id for m in Federation().messages(number)] for number in (1, 1, 2)]
    for cohort in drawn:
        assert [sum(lo <= c < lo + 4 for c in cohort) for lo in (0, 4, 8)] == [2, 2, 2]
    assert drawn[0] == drawn[1] != drawn[2]
    options = FedColaOptions(participation=0.1)
    assert options.cohorts({"a": 8, "b": 30, "c": 1}) == {"a": 1, "b": 3, "c": 1}
    assert FedColaOptions(participation={"a": 0, "b": 0.3}).cohorts({"a": 8, "b": 10}) == {"a": 0, "b": 3}


def test_clients_get_the_model_of_their_type_and_what_they_borrow_apart(federation):
    """The model of the other modality's weights comes in a second record; clients with both modalities get none."""
    for message in federation.messages():
        kind, sent = federation.type_of(message), message.content.array_records
        own = {key.removeprefix(f"{kind}/") for key in federation.arrays if key.startswith(f"{kind}/")}
        assert set(sent["arrays"]) == own
        if kind == "image+text":
            assert set(sent) == {"arrays"}
            continue
        other = {"image": "text", "text": "image"}[kind]
        assert len(sent["aux"]) == 2 * 4  # two blocks of four linear layers
        for key, array in sent["aux"].items():
            assert (
                array.numpy().tobytes()
                == federation.arrays[f"{other}/towers.{key.replace('/', '.', 1)}.weight"].numpy().tobytes()
            )


def test_uploads_are_as_large_as_fedavgs_and_downloads_larger_by_what_is_borrowed(data_cache):
    gated, plain = Federation(), Federation("strategy.name=fedavg-types")
    outcomes = [next(one.rounds().run(one.arrays)) for one in (gated, plain)]
    borrowed = sum(array_bytes(RecordDict({"aux": m.content["aux"]})) for m in gated.messages() if "aux" in m.content)
    assert outcomes[0].tally.bytes_up == outcomes[1].tally.bytes_up > 0
    assert outcomes[0].tally.bytes_down - outcomes[1].tally.bytes_down == borrowed > 0
    assert not any("gate" in key or "parametrizations" in key for key in outcomes[0].arrays)


def test_without_its_parts_fedcola_is_fedavg_within_types(data_cache):
    """And that is the weighted mean of a type's uploads, in every round."""
    one, other = Federation(*PLAIN), Federation("strategy.name=fedavg-types")
    for mine, theirs in itertools.islice(zip(one.rounds().run(one.arrays), other.rounds().run(other.arrays), strict=True), 2):
        assert {k: a.data for k, a in mine.arrays.items()} == {k: a.data for k, a in theirs.arrays.items()}
    messages = other.messages(number=1)
    replies = list(other.grid.send_and_receive(messages))
    merged, _ = other.strategy.aggregate_train(1, replies)
    for kind in other.bench.data.types:
        mine = [r.content for r in replies if other.type_of(messages[replies.index(r)]) == kind]
        weights = np.array([float(next(iter(c.metric_records.values()))[WEIGHT_KEY]) for c in mine])
        for key in ("norm.weight", next(k for k in mine[0].array_records["arrays"] if "qkv" in k)):
            stack = np.stack([c.array_records["arrays"][key].numpy() for c in mine])
            expected = np.average(stack.astype(np.float64), axis=0, weights=weights)
            np.testing.assert_allclose(merged[f"{kind}/{key}"].numpy(), expected, atol=1e-6)


def test_with_idle_uni_modal_clients_the_paired_model_is_fedavgs(data_cache):
    """Nothing crosses types in FedAvg: a run with pairs only must give the same paired model, bit for bit."""
    idle = 'strategy.participation={ "image+text" = 0.5, image = 0, text = 0 }'
    fedavg = "strategy.name=fedavg-types"
    all_types, pairs_only = Federation(fedavg), Federation(fedavg, idle, "federation.per_round=2")
    for both in itertools.islice(zip(*(f.rounds().run(f.arrays) for f in (all_types, pairs_only)), strict=True), 2):
        paired = [{k: a.data for k, a in outcome.arrays.items() if k.startswith("image+text/")} for outcome in both]
        assert paired[0] == paired[1]
        for key, array in both[1].arrays.items():
            if not key.startswith("image+text/"):
                assert array.data == pairs_only.arrays[key].data


def test_a_type_that_vanishes_for_three_rounds_keeps_its_own_parts_bit_for_bit(data_cache):
    """Its attention goes on moving with the other holders of its modality; nothing else does. Then it comes back."""
    federation = Federation()
    images = [c for c, name in enumerate(federation.bench.data.type_of) if name == "image"]
    federation.grid._node_ids = [c for c in range(12) if c not in images]
    federation.roster = roster(federation.bench, {client: client for client in federation.grid.get_node_ids()})
    outcomes = list(federation.rounds().run(federation.arrays))
    before, after = federation.arrays, outcomes[-1].arrays
    for key in (key for key in before if key.startswith("image/")):
        same = before[key].data == after[key].data
        assert same == (part_of(key.removeprefix("image/")).kind != "attention")
    federation.grid._node_ids = list(range(12))
    federation.roster = roster(federation.bench, {client: client for client in range(12)})
    back = next(federation.rounds().run(after))
    assert any(client in images for client in back.tally.replied)
    assert back.arrays["image/head.weight"].data != after["image/head.weight"].data


def liar(change, who: int = 0) -> ClientApp:
    """An app of which one client changes its train replies before they leave."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        if message.metadata.message_type.startswith("train") and int(context.node_config["partition-id"]) == who:
            change(reply.content)
        return reply

    app = ClientApp(mods=[mod])
    app.train("multimodal")(client_app)
    app.evaluate("multimodal")(client_app)
    app.query()(client_app)
    return app


def set_array(key: str, value) -> None:
    def change(content: RecordDict) -> None:
        record = content.array_records["arrays"]
        if value is None:
            del record[key]
        else:
            record[key] = array_record({key: value(record[key].numpy() if key in record else np.ones(1, np.float32))})[key]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_array("norm.bias", lambda x: x * np.float32("nan")), "holds NaN or infinity"),
        (set_array("norm.bias", lambda x: x + np.float32("inf")), "holds NaN or infinity"),
        (set_array("norm.bias", lambda x: x[1:]), r"array 'norm.bias' is float32\[15\], expected float32\[16\]"),
        (set_array("norm.bias", lambda x: x.astype(np.float64)), "float64"),
        (set_array("norm.bias", None), "array 'norm.bias' is missing from the update"),
        (set_array("aux", lambda x: x), "array 'aux' is unexpected in the update"),
        (lambda content: content["metrics"].update({WEIGHT_KEY: 0}), "must be a number above 0"),
        (lambda content: content["metrics"].update({WEIGHT_KEY: -3}), "must be a number above 0"),
    ],
)
def test_a_bad_update_costs_one_client_not_the_round(change, reason, data_cache):
    """And its type goes on with its other client."""
    honest = Federation()
    cohort = [message.metadata.dst_node_id for message in honest.messages()]
    federation = Federation(app=liar(change, cohort[0]))
    outcome = next(federation.rounds().run(federation.arrays))
    ((client, why),) = outcome.tally.failed
    assert client == cohort[0]
    assert re.search(reason, why)
    assert sorted(outcome.tally.replied) == sorted(cohort[1:])
    assert all(np.isfinite(array.numpy()).all() for array in outcome.arrays.values())


def test_a_second_reply_of_a_client_does_not_count(data_cache):
    federation = Federation()
    messages = federation.messages()
    replies = list(federation.grid.send_and_receive(messages))
    once, _ = federation.strategy.aggregate_train(1, replies)
    again = Message(RecordDict(dict(replies[0].content)), reply_to=messages[0])
    arrays = {key: array.numpy() + 1 for key, array in again.content.array_records["arrays"].items()}
    again.content["arrays"] = array_record(arrays)
    twice, _ = federation.strategy.aggregate_train(1, [*replies, again])
    assert {k: a.data for k, a in once.items()} == {k: a.data for k, a in twice.items()}


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"type": "sound"}, r"client 0: registers as of type 'sound'; choose one of image\+text, image, text"),
        (
            {"modalities": ["image", "sound"]},
            r"client 0: registers with modalities \['image', 'sound'\]; type 'image\+text' holds",
        ),
        ({"type": None}, r"client 0: registers as of type"),
    ],
)
def test_a_client_of_an_unknown_type_or_modality_is_named(said, complaint, data_cache):
    app = ClientApp()

    @app.query()
    def query(message: Message, context) -> Message:
        reply = client_app(message, context)
        if int(context.node_config["partition-id"]) == 0:
            told = dict(reply.content.config_records["client"]) | said
            reply.content["client"] = ConfigRecord({key: value for key, value in told.items() if value is not None})
        return reply

    with pytest.raises(RoundError, match=complaint):
        Federation(app=app).messages()


def test_embeddings_of_two_vocabularies_are_not_averaged():
    """Equal words would have unequal rows."""
    texts = SiloType("text", {"text": Tokens(20, 4)}, Classes(3))
    pairs = SiloType("pairs", {"text": Tokens(30, 4), "code": Tokens(9, 4)})
    model = TowersOptions(dim=8, depth=1, heads=2)
    known = Setting(1, 2, 2, model, small_multimodal().train, types=named([texts, pairs]))
    FedColaOptions(share="blocks").build(known)
    complaint = (
        r"strategy.share = 'towers': towers.text.embed.word.weight is \[20, 8\] in type 'text' and \[30, 8\] in type 'pairs'"
    )
    with pytest.raises(SpecError, match=complaint):
        FedColaOptions(share="towers").build(known)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, local_ray) -> object:
    return run(small_multimodal("engine.workers=2"), tmp_path_factory.mktemp("runs"))


def test_the_record_says_who_is_accurate_and_who_retrieves(finished):
    """Accuracy is of clients with labels only; retrieval of those with pairs, with its chance level and gallery."""
    record = result(finished)
    jsonschema.validate(record, record_schema())
    kinds = record["partition"]["type_of"]
    for client, kind in zip(record["clients"], kinds, strict=True):
        assert (client["accuracy"] is None) == (kind == "image+text")
    line, final = record["rounds"][-1], record["final"]
    labelled = [client["accuracy"] for client in record["clients"] if client["accuracy"] is not None]
    assert len(labelled) == 8
    assert line["accuracy_mean"] == final["accuracy_mean"] == pytest.approx(np.mean(labelled))
    figures = line["figures"]
    assert figures["accuracy_image"] == pytest.approx(np.mean(labelled[:4]))
    assert figures["retrieval_gallery"] == 12
    assert figures["retrieval_chance"] == pytest.approx(2 * (1 + 5 + 10) / 12)
    ways = [figures[f"recall_at_{k}_{way}"] for k in (1, 5, 10) for way in ("image_to_text", "text_to_image")]
    assert figures["retrieval_sum_1_5_10"] == pytest.approx(sum(ways))
    smooth = np.mean([one["figures"]["retrieval_sum_1_5_10"] for one in record["rounds"]])
    assert final["retrieval_sum_1_5_10_last3"] == pytest.approx(smooth)
    assert 0 < final["gate_image"] < 1


def test_every_round_has_the_training_loss_of_every_type(finished):
    """Classes and pairs have losses of their own: one number of both would say nothing."""
    record = result(finished)
    assert all({"train_loss_image", "train_loss_text", "gate_image"} <= line["training"].keys() for line in record["rounds"])
    curves = loss_curves(record)
    assert list(curves) == ["image+text", "image", "text"]
    numbers = [line["round"] for line in record["rounds"]]
    assert curves["image+text"] == (numbers, [line["train_loss"] for line in record["rounds"]])
    assert curves["text"] == (numbers, [line["training"]["train_loss_text"] for line in record["rounds"]])


def test_the_number_of_workers_and_flowers_own_loop_do_not_change_a_byte(finished, runs):
    """One worker gives the bytes of two; and clients called one after the other, by a grid that is not ours, those too."""
    alone = run(small_multimodal("engine.workers=1"), runs)
    assert final_bytes(alone) == final_bytes(finished)
    here = Federation()
    *_, last = here.rounds().run(here.arrays)
    assert {k: a.data for k, a in last.arrays.items()} == final_bytes(finished)


def test_stock_flower_drives_the_strategy(finished, data_cache):
    """`Strategy.start` of Flower itself, on the same clients: the same model."""
    here = Federation()
    done = here.strategy.start(here.grid, here.arrays, num_rounds=3)
    assert {k: a.data for k, a in done.arrays.items()} == final_bytes(finished)


def test_a_resumed_run_ends_with_the_same_bytes(finished, runs):
    folder = run(small_multimodal("federation.rounds=1"), runs)
    resume(folder, resumable(folder, ["federation.rounds=3"]))
    assert final_bytes(folder) == final_bytes(finished)


def pid(grid: RayGrid) -> int:
    """The process of the only worker."""
    return ray.get(grid.pool[0].__ray_call__.remote(lambda _: os.getpid()))


def test_a_worker_killed_in_mid_round_costs_nothing(finished, tmp_path, local_ray):
    """kill -9 of the only other process: its clients are run again, the bytes are the same."""
    spec = small_multimodal()
    bench = bench_for(spec).checked()
    grid = RayGrid(client_app, spec.to_run_config(), 12, tmp_path / "state", workers=1, wire=bench.wire)
    try:
        known = roster(bench, {client: client for client in range(12)})
        strategy = spec.strategy.build(setting(bench, known))
        killed = []

        def progress(number: int, phase: str, done: int, total: int) -> None:
            if number == 2 and phase == "train" and not killed:
                killed.append(pid(grid))
                os.kill(killed[0], signal.SIGKILL)

        rounds = Rounds(strategy, grid, known, spec.seed, 3, expects=strategy.expects, progress=progress, wire=bench.wire)
        *_, last = rounds.run(array_record(bench.initial))
        assert killed
        assert pid(grid) != killed[0]
        assert {k: a.data for k, a in last.arrays.items()} == final_bytes(finished)
    finally:
        grid.close()


@pytest.mark.parametrize("upload", [("upload.codec=int8", "upload.target=delta"), ("upload.codec=topk", "upload.keep=0.1")])
def test_compressed_uploads_arrive(upload, data_cache):
    """Deltas are relative to what the client's type was sent, borrowed weights or not; what is lost is kept for later."""
    packed, plain = Federation(*upload), Federation()
    for outcomes in itertools.islice(zip(*(f.rounds().run(f.arrays) for f in (packed, plain)), strict=True), 2):
        tallies = [outcome.tally for outcome in outcomes]
        assert tallies[0].failed == []
        assert sorted(tallies[0].replied) == sorted(tallies[1].replied)
        assert tallies[0].bytes_up_dense == tallies[1].bytes_up > 2 * tallies[0].bytes_up


def test_simulated_devices_take_energy_for_towers_and_more_for_gates(data_cache):
    costs = []
    for gates in ("blocks", "none"):
        federation = Federation('hardware.devices={ "raspberry-pi-5" = 1.0 }', f"strategy.gates={gates}")
        messages = federation.messages()
        replies = list(federation.grid.send_and_receive(messages))
        costs.append({federation.type_of(m): r.content["fedcosim.cost"] for m, r in zip(messages, replies, strict=True)})
    for kind in ("image", "text"):
        assert costs[0][kind]["energy_high_j"] > costs[1][kind]["energy_high_j"] > 0
    assert costs[0]["image+text"]["compute_s"] == costs[1]["image+text"]["compute_s"] > 0


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ("strategy.name=fedavg strategy.participation=", r"strategy.name = 'fedavg': is for another kind of data than 'emoji'"),
        ("federation.clients=10", r"federation.clients = 10: \[data\] makes 4 image\+text, 4 image, 4 text; choose 12"),
        ("federation.per_round=7", r"federation.per_round = 7: strategy.participation draws 2 image\+text, .*; choose 6"),
        ("strategy.participation={image=0.5,text=0.5}", r"strategy.participation: 'image\+text' is missing"),
        ('strategy.participation={"image+text"=1,image=1,text=1,sound=1}', r"strategy.participation: 'sound' is no type"),
        ("strategy.participation=0", r"nobody takes part"),
        ("strategy.participation=1.5", r"strategy.participation.*1.5"),
        ("strategy.share=everything", r"strategy.share = 'everything'"),
        ("strategy.server_lr=0", r"strategy.server_lr = 0"),
        ('model={name="lenet"}', r"model.name: several modalities need a tower each; choose 'towers'"),
        ("stop.accuracy=0.5", r"stop: rules are about accuracy"),
        ("privacy.epsilon=1", r"privacy: strategy 'fedcola' cannot keep such a promise"),
        ("download.codec=fp16", r"download: strategy 'fedcola' sends several models"),
        ("upload.codec=asvd", r"upload.codec = 'asvd': it calibrates itself"),
        (
            "strategy.name=creamfl-like upload.codec=int8 upload.target=delta",
            r"upload.target = 'delta': strategy 'creamfl-like'",
        ),
        ("evaluate.split=validation", r"evaluate.split = 'validation': no client has such data"),
        ("train.pair_batch_size=1", r"train.pair_batch_size = 1: .*greater than or equal to 2"),
        ("train.proximal=1", r"train.proximal: unknown field"),
        ("data.test=10", r"data.test = 10: .*greater than or equal to 11"),
        ('data.vendors=["twitter","twitter"]', r"names a vendor twice"),
        ("data.images.alpha=0.5", r"data.images.alpha = 0.5: source = 'emoji' shares out concepts, not labels"),
        ("data.images.silos=0", r"data.images.silos = 0"),
        ("model.patch=5", r"model.patch = 5: the image is 32 x 32"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(overrides, complaint, data_cache):
    with pytest.raises(SpecError, match=complaint):
        bench_for(small_multimodal(*overrides.split())).checked()


def test_strategies_for_pairs_are_refused_for_images():
    with pytest.raises(
        SpecError, match=r"strategy.name = 'fedcola': is for another kind of data than 'digits'; choose one of fedavg"
    ):
        small("fedcola")


def test_checkpoints_hold_every_types_arrays(finished):
    arrays = Checkpoints(finished).latest().arrays
    assert {key.partition("/")[0] for key in arrays} == {"image+text", "image", "text"}
    assert all(torch.isfinite(tensor).all() for tensor in tensors(arrays).values())


CREAM = ("strategy.name=creamfl-like", "data.public=12")


def test_creamfls_features_travel_and_are_counted(data_cache):
    """Public pairs are an extra: their number is in the record, their features in the bytes of both directions."""
    cream, plain = Federation(*CREAM), Federation("strategy.name=fedavg-types", "data.public=12")
    outcomes = [next(f.rounds().run(f.arrays)) for f in (cream, plain)]
    assert outcomes[0].tally.failed == []
    sent = {cream.type_of(m): set(m.content.array_records) for m in cream.messages()}
    assert sent == {"image+text": {"arrays"}, "image": {"arrays", "public"}, "text": {"arrays", "public"}}
    features = 12 * 16 * 4
    assert outcomes[0].tally.bytes_up - outcomes[1].tally.bytes_up == pytest.approx(4 * features, rel=0.3)
    assert outcomes[0].tally.bytes_down - outcomes[1].tally.bytes_down == pytest.approx(4 * 2 * features, rel=0.3)
    assert outcomes[0].metrics["public_pairs"] == 12
    assert outcomes[0].metrics["distillation_loss"] > 0
    key = "image+text/towers.image.blocks.0.mlp.up.weight"
    assert outcomes[0].arrays[key].data != outcomes[1].arrays[key].data


def test_creamfl_without_its_losses_is_fedavg_for_the_paired_model(data_cache):
    cream = Federation(*CREAM, "strategy.contrast=0", "strategy.distil=0")
    plain = Federation("strategy.name=fedavg-types", "data.public=12")
    mine, theirs = (next(f.rounds().run(f.arrays)).arrays for f in (cream, plain))
    for key in mine:
        np.testing.assert_allclose(mine[key].numpy(), theirs[key].numpy(), atol=1e-7)


def test_the_ensemble_weights_clients_pair_by_pair_by_how_well_they_match():
    """A client that matches a pair counts for it, one that mismatches hardly; equal clients give their feature."""
    others = torch.eye(4) * 9
    good, bad = torch.eye(4), torch.eye(4).roll(1, 0)
    np.testing.assert_allclose(ensemble(torch.stack([good, good]), others), good, atol=1e-6)
    np.testing.assert_allclose(ensemble(torch.stack([good, bad]), others), good, atol=1e-3)
    mixed = torch.cat([good[:2], bad[2:]]), torch.cat([bad[:2], good[2:]])
    np.testing.assert_allclose(ensemble(torch.stack(mixed), others), good, atol=1e-3)


def test_creamfl_without_public_pairs_is_refused(data_cache):
    with pytest.raises(SpecError, match=r"data.public = 0: strategy 'creamfl-like' needs public pairs"):
        Federation("strategy.name=creamfl-like")

"""Runs on simulated hardware: figures of the record, whose updates count, services that go away, on real Ray.

What does not depend on workers runs on a grid in this process, which starts at once.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from grids import HereGrid
from small import SMALL

from fedcosim.clients.client_app import Workbench
from fedcosim.clients.cost import Cost
from fedcosim.clients.fleet import device_of
from fedcosim.clients.state import StateStore
from fedcosim.clients.worker import PRIVACY
from fedcosim.core.errors import RoundError
from fedcosim.core.records import array_bytes
from fedcosim.hwsim.devices import devices
from fedcosim.hwsim.neomem.host import NeoMem
from fedcosim.hwsim.roofline.simulator import Roofline
from fedcosim.hwsim.service import Host
from fedcosim.hwsim.simulator import Job
from fedcosim.hwsim.wire import fingerprint
from fedcosim.server.record import Checkpoints, Record
from fedcosim.server.report import record_schema
from fedcosim.server.run import resumable, resume, run
from fedcosim.server.server_app import execute, lifecycle, roster
from fedcosim.server.spec import Experiment, override, parse

MIXED = "hardware.devices={raspberry-pi-5=0.5, jetson-orin-nano=0.5}"
SAMPLE = Path(__file__).parents[2] / "experiments" / "traces" / "fleet-sample.json"
TINY = {
    **SMALL,
    "name": "tiny-fleet",
    "federation": {"clients": 8, "per_round": 4, "rounds": 2},
    "model": {"name": "lenet"},
    "train": {"batch_size": 512, "lr": 0.1},  # more than anybody has: every client's step is of its own size
    "strategy": {"name": "fedper"},
    "evaluate": {"every": 2},
    "engine": {"workers": 1},
}


def tiny(*overrides: str) -> Experiment:
    return parse(override(TINY, overrides))


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def computed(folder: Path) -> dict[str, bytes]:
    """Everything a run computed: global arrays and every committed client state."""
    checkpoint = Checkpoints(folder).latest()
    states = {f"state {client}": ref.sha256.encode() for client, ref in checkpoint.states.items()}
    return {key: array.data for key, array in checkpoint.arrays.items()} | states


def simulated(folder: Path) -> list[dict]:
    """What a record says about simulated hardware."""
    keys = ("sim_s", "energy_j", "energy_low_j", "straggler", "dropped")
    return [{key: line[key] for key in keys} for line in result(folder)["rounds"]]


class Told:
    """A listener that is told of rounds; it may interfere after the first."""

    def __init__(self, after_the_first=lambda: None) -> None:
        self.after_the_first = after_the_first

    def progress(self, *_: object) -> None:
        pass

    def round(self, line: dict) -> None:
        if line["round"] == 1:
            self.after_the_first()

    def close(self, status: str) -> None:
        pass


def interrupt() -> None:
    raise KeyboardInterrupt


def run_here(spec: Experiment, folder: Path, *listeners: Told) -> tuple[HereGrid, Record]:
    """Run, or go on with, an experiment whose name is the run's."""
    bench, grid, place = Workbench(spec).checked(), HereGrid(spec), folder / spec.name
    with Record(place, spec) if place.exists() else Record.create(folder, spec, spec.name) as record, lifecycle(record):
        execute(bench, grid, record, roster(bench, {client: client for client in range(spec.federation.clients)}), listeners)
    return grid, record


def total_s(spec: Experiment, grid: HereGrid, client: int) -> float:
    """How long a client's part takes, by hand, on the usual link."""
    hardware, (down,) = spec.hardware, {array_bytes(m.content) for m in grid.sent if m.metadata.dst_node_id == client}
    travel_s = 8 * down / hardware.downlink_bits_per_s + 8 * array_bytes(grid.answers[client]) / hardware.uplink_bits_per_s
    return travel_s + 2 * hardware.round_trip_s + Cost.of(grid.answers[client]).compute_s


class Counting:
    """A simulator that remembers what it was asked."""

    def __init__(self, simulator) -> None:
        self._simulator = simulator
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str):
        return getattr(self._simulator, name)

    def estimate(self, request, job: Job):
        self.asked[fingerprint(request)] += 1
        return self._simulator.estimate(request, job)


# ------------------------------------------------------------------------------------------------------------ figures


@pytest.fixture(scope="module")
def plain(tmp_path_factory, local_ray) -> Path:
    """Without any hardware."""
    return run(tiny(), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def priced(tmp_path_factory, local_ray) -> Path:
    """The same on a mixed fleet, on two workers."""
    return run(tiny(MIXED, "engine.workers=2"), tmp_path_factory.mktemp("runs"))


def test_the_record_tells_time_and_energy(priced, plain):
    record = result(priced)
    jsonschema.validate(record, record_schema())
    assert [client["device"] for client in record["clients"]] == list(device_of(tiny(MIXED).hardware, 8, 3))
    assert Counter(client["device"] for client in record["clients"]) == {"raspberry-pi-5": 4, "jetson-orin-nano": 4}
    for line in record["rounds"]:
        last = line["straggler"]
        assert line["sim_s"] == last["total_s"] == last["download_s"] + last["compute_s"] + last["upload_s"]
        assert last["device"] == record["clients"][last["client"]]["device"]
        assert 0 < line["energy_low_j"] <= line["energy_j"]
        assert line["dropped"] == []
    for key in ("sim_s", "energy_j"):
        assert record["final"][key] == sum(line[key] for line in record["rounds"])
        assert result(plain)["final"][key] is None


def test_figures_are_those_of_the_clients_by_hand(tmp_path):
    """All take part in the one round: the slowest decides; energy is that of all, within what devices can draw."""
    spec = tiny(MIXED, "federation.per_round=8", "federation.rounds=1", "evaluate.every=1", "train.batch_size=8")
    grid, record = run_here(spec, tmp_path)
    (line,) = record.result["rounds"]
    totals = {client: total_s(spec, grid, client) for client in range(8)}
    assert line["straggler"]["client"] == max(totals, key=lambda client: (totals[client], client))
    assert line["sim_s"] == pytest.approx(max(totals.values()))
    costs, device = [Cost.of(grid.answers[client]) for client in range(8)], device_of(spec.hardware, 8, spec.seed)
    assert line["energy_j"] == pytest.approx(sum(cost.energy_high_j for cost in costs))
    assert line["energy_low_j"] == pytest.approx(sum(cost.energy_low_j for cost in costs))
    drawn = sum(devices()[name].max_power_w * cost.compute_s for name, cost in zip(device, costs, strict=True))
    assert line["energy_j"] <= drawn * (1 + 1e-9)


def test_hardware_does_not_change_a_byte_of_what_is_learned(priced, plain):
    """Where all updates count; one run on one worker, the other on two."""
    assert computed(priced) == computed(plain)
    assert result(priced)["final"]["accuracy_mean"] == result(plain)["final"]["accuracy_mean"]
    assert result(priced)["final"]["bytes_up"] == result(plain)["final"]["bytes_up"]


def test_crossbars_change_time_and_energy_but_not_what_is_learned(priced, runs):
    """The same run with crossbars beside the processors, on real workers, which share the answers of both simulators."""
    folder = run(tiny(MIXED, "hardware.accelerator=reram", "hardware.reram={write='round'}"), runs)
    assert computed(folder) == computed(priced)
    for line, other in zip(result(folder)["rounds"], result(priced)["rounds"], strict=True):
        assert line["sim_s"] != other["sim_s"]
        assert 0 < line["energy_low_j"] < line["energy_j"]
    answers = {path.name.split("-")[0] for path in (folder / "hwsim").glob("*.json")}
    assert answers == {"roofline", "reram"}


def test_an_interrupted_run_goes_on_to_the_same_figures(tmp_path):
    """Clients come and go by a trace, so that the clock decides who is asked: it has to go on exactly where it was."""
    spec = tiny(MIXED, f"hardware.trace='{SAMPLE}'", "strategy.name=fedavg", "federation.rounds=4")
    _, whole = run_here(spec, tmp_path)
    halved = spec.model_copy(update={"name": "halved"})
    with pytest.raises(KeyboardInterrupt):
        run_here(halved, tmp_path, Told(interrupt))
    assert [line["round"] for line in result(tmp_path / "halved")["rounds"]] == [1]
    _, resumed = run_here(halved, tmp_path)
    assert computed(resumed.folder) == computed(whole.folder)
    assert simulated(resumed.folder) == simulated(whole.folder)
    assert resumed.result["final"]["sim_s"] == whole.result["final"]["sim_s"] > 1800


TIERED = ("hardware.devices={raspberry-pi-5=0.5, h100-sxm=0.5}", "hardware.memory=neomem", "hardware.neomem.threads=4")


def test_the_record_tells_how_much_slower_each_device_is_for_its_memory(plain, runs, local_ray):
    """Two workers share one service's answers: it is asked once for equal work, and learning stays as it is."""
    counting = Counting(NeoMem())
    host = Host({"roofline": Roofline(), "neomem": counting}, "127.0.0.1:0")
    host.start()
    endpoint = f"hardware.endpoint='127.0.0.1:{host.port}'"
    folder = run(tiny(*TIERED, endpoint, "engine.workers=2"), runs)
    host.stop(0)
    record = result(folder)
    jsonschema.validate(record, record_schema())
    assert computed(folder) == computed(plain)
    assert set(counting.asked.values()) == {1}
    for line in record["rounds"]:
        assert line["memory_slowdown"].keys() == {"raspberry-pi-5", "h100-sxm"}
        assert 1 <= line["memory_slowdown"]["raspberry-pi-5"] < line["memory_slowdown"]["h100-sxm"]
    page = (folder / "report.html").read_text()
    assert "Computing time over that with fast memory alone" in page
    assert "Memory in two tiers: the training that it slows down most" in page
    assert "memory_slowdown" not in result(plain)["rounds"][0]


def test_slow_memory_takes_as_much_longer_as_the_record_says(tmp_path):
    """By hand: the mean over a device's clients of their times over those with fast memory alone."""
    grids = []
    for name, settings in (("fast", TIERED[:1]), ("tiered", TIERED)):
        spec = tiny(*settings, "federation.per_round=8", "federation.rounds=1", f"name={name}")
        grid, record = run_here(spec, tmp_path)
        grids.append(grid)
    (line,), device = record.result["rounds"], device_of(spec.hardware, 8, spec.seed)
    times = [{client: Cost.of(grid.answers[client]).compute_s for client in range(8)} for grid in grids]
    for name, slowdown in line["memory_slowdown"].items():
        mine = [client for client in range(8) if device[client] == name]
        assert slowdown == pytest.approx(np.mean([times[1][client] / times[0][client] for client in mine]))


# ---------------------------------------------------------------------------------------------------- whose updates count

COMPUTING = ("hardware.uplink_bits_per_s=1e14", "hardware.downlink_bits_per_s=1e14", "hardware.round_trip_s=0")
EQUAL = ("data.partition=iid", "data.alpha=", "federation.rounds=1", "federation.per_round=8", "evaluate.every=1")


@pytest.fixture(scope="module")
def between_s() -> float:
    """A time between those of the two kinds, whose clients have equal work: the geometric mean of one of each."""
    grid = HereGrid(spec := tiny(MIXED, *COMPUTING, *EQUAL))
    bench, kinds = Workbench(spec), device_of(spec.hardware, 8, spec.seed)
    content = {"arrays": bench.export(bench.shared_keys), "config": ConfigRecord({"server-round": 1})}
    pair = [kinds.index(name) for name in ("raspberry-pi-5", "jetson-orin-nano")]
    list(grid.send_and_receive([Message(RecordDict(content), client, "train") for client in pair]))
    slow_s, fast_s = (Cost.of(grid.answers[client]).compute_s for client in pair)
    assert slow_s > 2 * fast_s
    return math.sqrt(slow_s * fast_s)


def late(between_s: float, *overrides: str) -> Experiment:
    return tiny(MIXED, *COMPUTING, *EQUAL, "hardware.rounds=deadline", f"hardware.deadline_s={between_s!r}", *overrides)


def of_kind(spec: Experiment, name: str) -> set[int]:
    return {client for client, kind in enumerate(device_of(spec.hardware, 8, spec.seed)) if kind == name}


def test_a_late_update_neither_counts_nor_advances_its_client(between_s, runs):
    """FedPer keeps heads with the clients: those of the slow kind keep what they had, nothing."""
    spec = late(between_s)
    folder = run(spec, runs)
    record = result(folder)
    jsonschema.validate(record, record_schema())
    (line,) = record["rounds"]
    slow, fast = of_kind(spec, "raspberry-pi-5"), of_kind(spec, "jetson-orin-nano")
    assert {entry["client"] for entry in line["dropped"]} == slow
    assert all("hardware.deadline_s" in entry["reason"] for entry in line["dropped"])
    assert (line["sampled"], line["failed"]) == (8, [])
    assert line["sim_s"] == between_s
    assert line["straggler"]["client"] in fast
    assert {client["client"] for client in record["clients"] if client["rounds"]} == fast
    assert Checkpoints(folder).latest().states.keys() == fast


def test_under_privacy_a_late_client_has_still_spent(between_s, runs):
    """What was sent, was sent: its ledger says so, though its update does not count."""
    private = ("privacy.epsilon=8", "privacy.delta=1e-5", "train.batch_size=16")
    generous = tiny(MIXED, *COMPUTING, *EQUAL, *private)
    grid, _ = run_here(generous, runs)
    slowest_s = sorted(Cost.of(answer).compute_s for answer in grid.answers.values())
    spec = late(math.sqrt(slowest_s[3] * slowest_s[4]), *private)
    folder = run(spec, runs)
    (line,) = result(folder)["rounds"]
    dropped = {entry["client"] for entry in line["dropped"]}
    assert dropped == of_kind(spec, "raspberry-pi-5")
    states, store = Checkpoints(folder).latest().states, StateStore(folder / "state")
    assert states.keys() == set(range(8))
    assert all(PRIVACY in store.load(client, states[client]) for client in dropped)
    assert line["epsilon"] > 0


@pytest.mark.parametrize("rule", ["deadline", "over-select"])
def test_the_average_is_that_of_the_kept_updates(rule, between_s, tmp_path):
    """By hand, from what every client answered, weighted by its samples."""
    spec = late(between_s)
    if rule == "over-select":
        chosen = ("hardware.rounds=over-select", "hardware.over_select=1", "federation.per_round=4")
        spec = tiny(MIXED, *COMPUTING, *EQUAL, *chosen)
    grid, record = run_here(spec, tmp_path)
    assert len(grid.answers) == 8
    kept = sorted(grid.answers, key=lambda client: (total_s(spec, grid, client), client))[:4]
    assert set(kept) == of_kind(spec, "jetson-orin-nano")
    (line,) = record.result["rounds"]
    assert {entry["client"] for entry in line["dropped"]} == grid.answers.keys() - set(kept)
    assert line["sim_s"] == pytest.approx(between_s if rule == "deadline" else total_s(spec, grid, kept[-1]))
    weights = [grid.answers[client]["metrics"]["num-examples"] for client in kept]
    for key, array in Checkpoints(record.folder).latest().arrays.items():
        stacked = np.stack([grid.answers[client]["arrays"][key].numpy().astype(np.float64) for client in kept])
        np.testing.assert_allclose(array.numpy(), np.average(stacked, axis=0, weights=weights), rtol=1e-5, atol=1e-7)


def test_a_deadline_that_nobody_meets_ends_the_run(tmp_path):
    spec = tiny(MIXED, "hardware.rounds=deadline", "hardware.deadline_s=1e-3")
    with pytest.raises(RoundError, match=r"(?s)0 of 4 clients .*its update took"):
        run_here(spec, tmp_path)


def test_a_trace_decides_who_can_be_asked(tmp_path):
    """At time 0 three of the sample's clients are there; the fourth comes at 1800 s, which a round of four has to wait for."""
    raw = json.loads(SAMPLE.read_text())
    spec = tiny(MIXED, f"hardware.trace='{SAMPLE}'", "federation.rounds=1", "evaluate.every=1")
    grid, record = run_here(spec, tmp_path)
    asked = {message.metadata.dst_node_id for message in grid.sent}
    there = {int(name) for name, entry in raw.items() if any(a <= 1800 < b for a, b in zip(*spans(entry), strict=True))}
    assert asked == there == {0, 1, 4, 5}
    (line,) = record.result["rounds"]
    assert line["sim_s"] == pytest.approx(1800 + line["straggler"]["total_s"])
    assert line["straggler"]["client"] == 5  # at 512 kbit/s
    jsonschema.validate(record.result, record_schema())


def spans(entry: dict) -> tuple[list[int], list[int]]:
    return entry["active"], entry["inactive"]


def test_a_client_without_the_memory_is_left_out_not_failed(own_devices, tmp_path):
    """All but one device have room; a round is satisfied by those."""
    origin = "kind = 'derived', source = 'this test'"
    figures = {"peak.fp32": "1e9", "memory_bytes_per_s": "1e9", "memory_bytes": "100_000"}
    lines = ["", "[thimble]", *(f"{field} = {{ value = {value}, {origin} }}" for field, value in figures.items())]
    own_devices.write_text((own_devices.read_text() if own_devices.exists() else "") + "\n".join(lines) + "\n")
    fleet = "hardware.devices={raspberry-pi-5=0.5, thimble=0.5}"
    spec = tiny(fleet, *EQUAL, "hardware.on_memory=skip", "federation.min_reply_fraction=1")
    _, record = run_here(spec, tmp_path)
    (line,) = record.result["rounds"]
    assert {entry["client"] for entry in line["left_out"]} == of_kind(spec, "thimble")
    assert all("GB are missing" in entry["reason"] for entry in line["left_out"])
    assert line["failed"] == []
    jsonschema.validate(record.result, record_schema())
    with pytest.raises(RoundError, match=r"(?s)4 of 8 clients .* GB are missing"):
        run_here(tiny(fleet, *EQUAL, "federation.min_reply_fraction=1", "name=strict"), tmp_path)


# ------------------------------------------------------------------------------------------------------------ services


def serve(simulator: Roofline, port: int = 0) -> Host:
    host = Host({"roofline": simulator}, f"127.0.0.1:{port}")
    host.start()
    return host


def remote(host: Host, *overrides: str) -> Experiment:
    endpoint = f"hardware.endpoint='127.0.0.1:{host.port}'"
    return tiny(MIXED, endpoint, "federation.min_reply_fraction=1", *overrides)


def test_a_service_is_asked_once_for_equal_work(runs, local_ray):
    """200 clients on five kinds of devices, two workers: five questions."""
    kinds = ("raspberry-pi-5", "jetson-orin-nano", "apple-m4", "snapdragon-8-gen-2", "h100-sxm")
    simulator = Counting(Roofline())
    host = serve(simulator)
    spec = remote(
        host,
        "hardware.devices={" + ", ".join(f"{kind}=1" for kind in kinds) + "}",
        "strategy.name=fedavg",
        "federation={clients=200, per_round=200, rounds=1}",
        "data={source='synthetic', synthetic_shape='1x8x8', synthetic_classes=4, train_per_client=6, test_per_client=1}",
        "engine.workers=2",
    )
    folder = run(spec, runs)
    host.stop(0)
    (line,) = result(folder)["rounds"]
    assert (line["sampled"], line["failed"]) == (200, [])
    assert sorted(simulator.asked.values()) == [1] * 5
    jsonschema.validate(result(folder), record_schema())


def test_a_run_that_lost_its_service_goes_on_once_it_is_back(plain, priced, runs):
    """The second round has new clients, whose work has its own size; nobody knows what it costs while the service is down."""
    host = serve(Roofline())
    spec = remote(host, "hardware.patience_s=0")
    with pytest.raises(RoundError, match=r"(?s)round 2: .*onnect"):
        run(spec, runs, "x", [Told(lambda: host.stop(0))])
    record = result(runs / "x")
    assert (record["status"], len(record["rounds"])) == ("failed", 1)
    assert "round 2" in record["reason"]
    again = serve(Roofline(), host.port)
    resume(runs / "x", resumable(runs / "x"))
    again.stop(0)
    assert result(runs / "x")["status"] == "finished"
    assert computed(runs / "x") == computed(plain)
    assert simulated(runs / "x") == simulated(priced)


def test_or_goes_on_at_unknown_cost(plain, runs):
    """What is learned is the same; what is known of round 2 is that of the clients whose cost was known before."""
    host = serve(Roofline())
    spec = remote(host, "hardware.patience_s=0", "hardware.on_error=skip", "strategy.name=fedavg")
    folder = run(spec, runs, "x", [Told(lambda: host.stop(0))])
    record = result(folder)
    jsonschema.validate(record, record_schema())
    assert record["status"] == "finished"
    assert [line["failed"] for line in record["rounds"]] == [[], []]
    first, second = record["rounds"]
    assert 0 < (second["energy_j"] or 0) < first["energy_j"]

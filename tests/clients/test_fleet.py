"""Who is which device, over what link, and when: shares, options, presence, trace files."""

from __future__ import annotations

import json
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import small

from fedcosim.clients.fleet import ALWAYS, HardwareOptions, Link, Presence, device_of, fleet, read_trace
from fedcosim.core.errors import SpecError
from fedcosim.hwsim.devices import devices

SAMPLE = Path(__file__).parents[2] / "experiments" / "traces" / "fleet-sample.json"
KINDS = ["raspberry-pi-5", "jetson-orin-nano", "apple-m4", "snapdragon-8-gen-2", "h100-sxm"]
some_shares = st.dictionaries(st.sampled_from(KINDS), st.integers(1, 1000), min_size=1)


def options(**fields) -> HardwareOptions:
    return HardwareOptions(**{"devices": {"raspberry-pi-5": 1}, **fields})


# ------------------------------------------------------------------------------------------------------------ devices


@given(shares=some_shares, clients=st.integers(1, 300), seed=st.integers(0, 2**62))
def test_counts_are_the_shares_by_largest_remainders(shares, clients, seed):
    """Hamilton's two defining properties, in exact arithmetic: within one of the quota, and the largest remainders first."""
    counts = Counter(device_of(options(devices=shares), clients, seed))
    assert counts.total() == clients
    quota = {name: Fraction(share * clients, sum(shares.values())) for name, share in shares.items()}
    assert all(counts[name] - math.floor(exact) in (0, 1) for name, exact in quota.items())
    remainders = {name: exact - math.floor(exact) for name, exact in quota.items()}
    up = [remainders[name] for name in shares if counts[name] > quota[name]]
    down = [remainders[name] for name in shares if counts[name] < quota[name]]
    assert min(up, default=1) >= max(down, default=0) - 1e-9


@given(shares=some_shares, clients=st.integers(1, 100), seed=st.integers(0, 2**62), scale=st.sampled_from([0.25, 2, 8]))
def test_the_assignment_depends_on_the_seed_and_relative_shares_alone(shares, clients, seed, scale):
    """Not on the order of the table, which is another one in a run config, nor on anything else in it."""
    scaled = {name: scale * shares[name] for name in reversed(shares)}
    other = options(devices=scaled, uplink_bits_per_s=1e6, trace="nowhere.json")
    assert device_of(options(devices=shares), clients, seed) == device_of(other, clients, seed)


def test_a_worker_gives_clients_the_devices_that_the_server_does():
    """Workers have the spec from a run config, sorted by field."""
    from fedcosim.server.spec import from_run_config

    spec = small("fedavg", "hardware.devices={raspberry-pi-5=0.5, jetson-orin-nano=0.5}")
    there = from_run_config(dict(sorted(spec.to_run_config().items())))
    assert device_of(there.hardware, 100, spec.seed) == device_of(spec.hardware, 100, spec.seed)


def test_another_seed_gives_other_clients_the_same_devices():
    half = options(devices={"raspberry-pi-5": 1, "apple-m4": 1})
    one, other = device_of(half, 100, 1), device_of(half, 100, 2)
    assert one != other
    assert Counter(one) == Counter(other)


# ------------------------------------------------------------------------------------------------------------ options

PROBLEMS = {
    ("hardware.devices.raspbery-pi-5=1",): "hardware.devices.raspbery-pi-5: did you mean 'raspberry-pi-5'?",
    ("hardware.rounds=deadline",): "hardware.deadline_s: missing; it must be given for hardware.rounds = 'deadline'",
    ("hardware.rounds=over-select",): "hardware.over_select: missing; it must be given for hardware.rounds = 'over-select'",
    ("hardware.deadline_s=3",): "hardware.deadline_s: has no effect without hardware.rounds = 'deadline'",
    ("hardware.over_select=0.3",): "hardware.over_select: has no effect without hardware.rounds = 'over-select'",
    ("hardware.rounds=over-select", "hardware.over_select=0.3", "hardware.deadline_s=3"): "hardware.deadline_s: has no effect",
    ("hardware.root_ca=ca.pem",): "hardware.root_ca: has no effect without hardware.endpoint",
    ("hardware.uplink_bits_per_s=0",): "hardware.uplink_bits_per_s = 0: ",
    ("hardware.rounds=sometimes",): "hardware.rounds = 'sometimes': ",
    ("hardware.devices.raspberry-pi-5=0",): "hardware.devices.raspberry-pi-5 = 0: ",
    ("hardware.speed=9",): "hardware.speed: unknown field",
}


@pytest.mark.parametrize("overrides", PROBLEMS)
def test_a_wrong_option_is_a_sentence_that_names_it(overrides):
    with pytest.raises(SpecError) as error:
        small("fedavg", "hardware.devices.jetson-orin-nano=1", *overrides)
    (problem,) = error.value.problems
    assert problem.startswith(PROBLEMS[overrides])


def test_no_device_at_all_is_refused():
    with pytest.raises(SpecError, match=r"hardware\.devices = \{\}"):
        small("fedavg", "hardware.devices={}")


def test_a_device_without_the_precision_is_refused():
    assert devices()["raspberry-pi-5"].peak.bf16 is None
    with pytest.raises(SpecError, match=r"hardware\.devices\.raspberry-pi-5: .* train\.precision = 'bf16'"):
        small("fedavg", "hardware.devices.raspberry-pi-5=1", "train.precision=bf16")


def test_options_survive_a_run_config():
    """Workers get the spec as Flower's flat run config."""
    from fedcosim.server.spec import from_run_config

    spec = small("fedavg", "hardware.devices.apple-m4=0.5", "hardware.rounds=deadline", "hardware.deadline_s=3")
    assert from_run_config(spec.to_run_config()) == spec


@pytest.mark.parametrize(
    ("per_round", "more", "asked"), [(100, 0.07, 107), (100, 0.1, 110), (10, 0.3, 13), (4, 0.1, 5), (4, 1, 8)]
)
def test_over_selection_asks_that_share_more(per_round, more, asked):
    """Binary fractions must not ask one client too many: 100 * 0.07 is a little more than 7."""
    assert options(rounds="over-select", over_select=more).asked(per_round) == asked


# -------------------------------------------------------------------------------------------------------------- links


def test_a_transfer_takes_its_bits_over_the_rate_and_a_round_trip():
    """ViT-B/16 in single precision: 346,270,624 bytes at 10 Mbit/s take 277.02 s."""
    link = Link(10e6, 100e6, 0.05)
    assert link.upload_s(346_270_624) == pytest.approx(277.02 + 0.05, abs=0.005)
    assert link.download_s(346_270_624) == pytest.approx(27.70 + 0.05, abs=0.005)


# ----------------------------------------------------------------------------------------------------------- presence


@st.composite
def presences(draw):
    """Up to five spans in a short period of whole seconds, empty and touching ones among them."""
    period = draw(st.integers(1, 40))
    times = sorted(draw(st.lists(st.integers(0, period), max_size=10).filter(lambda drawn: len(drawn) % 2 == 0)))
    return Presence(tuple(zip(times[::2], times[1::2], strict=True)), period)


def brute_force(presence: Presence, now: int) -> tuple[float, float]:
    """When the client leaves and when it is there next, by looking at every second: it is there at whole seconds or not at all
    until the next one."""

    def there(second: int) -> bool:
        return any(start <= second % presence.period_s < stop for start, stop in presence.spans)

    seconds = range(now, now + 2 * int(presence.period_s) + 1)
    leaves = next((s for s in seconds if not there(s)), math.inf)
    return leaves, next((s for s in seconds if there(s)), math.inf)


@given(presence=presences(), now=st.integers(0, 200))
def test_presence_is_what_every_second_says(presence, now):
    leaves, arrives = brute_force(presence, now)
    assert presence.until(now) == leaves
    assert presence.next(now) == arrives


@given(presence=presences(), now=st.integers(0, 200), part=st.floats(0.01, 0.99))
def test_between_seconds_nothing_changes(presence, now, part):
    leaves, arrives = brute_force(presence, now)
    later = now + part
    assert presence.until(later) == pytest.approx(leaves if leaves > now else later)
    assert presence.next(later) == pytest.approx(later if arrives == now else arrives)


def test_a_span_goes_on_over_the_end_of_a_period():
    presence = Presence(((0, 10), (80, 100)), 100)
    assert [presence.until(now) for now in (85, 185, 5, 10, 100)] == [110, 210, 10, 10, 110]
    assert [presence.next(now) for now in (10, 50, 110, 95)] == [80, 80, 180, 95]


def test_who_is_never_away_never_leaves():
    for presence in (ALWAYS, Presence(((0, 50), (50, 100)), 100)):
        assert presence.until(1e6) == math.inf
        assert presence.next(1e6) == 1e6


# ------------------------------------------------------------------------------------------------------------- traces


def trace(tmp_path, content) -> Path:
    path = tmp_path / "trace.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_entry_of_fedscale_is_read(tmp_path):
    """The entry that FedScale's documentation shows, with its device capacity."""
    behaviour = {
        "duration": 1,
        "inactive": [88494, 93284],
        "finish_time": 518400,
        "active": [88494, 93283],
        "model": "SM-G611MT",
    }
    (entry,) = read_trace(trace(tmp_path, {"107740": behaviour | {"computation": 162.0, "communication": 5648.1}}))
    assert entry.presence == Presence(((88494, 88494), (93283, 93284)), 518400)
    assert entry.presence.next(0) == 93283  # there for one second; the other span is empty
    assert entry.link(Link(1, 2, 0.5)) == Link(5648.1e3, 5648.1e3, 0.5)


def test_what_an_entry_does_not_say_is_as_usual(tmp_path):
    silent, up, both = read_trace(
        trace(tmp_path, {"a": {}, "b": {"uplink": 500}, "c": {"communication": 100, "uplink": 50, "downlink": 200}})
    )
    usual = Link(7, 8, 0.5)
    assert silent.presence == ALWAYS
    assert [entry.link(usual) for entry in (silent, up, both)] == [usual, Link(500e3, 8, 0.5), Link(50e3, 200e3, 0.5)]


def test_a_last_start_without_an_end_lasts_to_the_end_of_the_period(tmp_path):
    (entry,) = read_trace(trace(tmp_path, {"0": {"active": [5, 50], "inactive": [10], "finish_time": 100}}))
    assert entry.presence.spans == ((5, 10), (50, 100))


def test_clients_cycle_through_the_entries():
    """The sample of eight, for nineteen clients."""
    entries = read_trace(SAMPLE)
    assert len(entries) == 8
    equipment = fleet(options(trace=str(SAMPLE), round_trip_s=0.01), 19, seed=1)
    for client in range(19):
        raw = json.loads(SAMPLE.read_text())[str(client % 8)]
        assert equipment.presence[client].spans == tuple(zip(raw["active"], raw["inactive"], strict=True))
        up, down = (1000 * raw.get(direction, raw.get("communication", 0)) for direction in ("uplink", "downlink"))
        assert equipment.link[client] == Link(up, down, 0.01)


THERE = {"active": [1, 5], "inactive": [3, 8], "finish_time": 10}
MALFORMED = {
    "[1": ": not JSON: ",
    "[]": ": must be a JSON object with an entry for every client",
    "{}": ": must be a JSON object with an entry for every client",
    '{"a": 3}': ", client a: must be an object",
    '{"a": {"comunication": 3}}': ", client a, comunication: unknown field; did you mean 'communication'?",
    **{
        json.dumps({"a": {field: value}}): f", client a, {field} = {value!r}: must be a number of kbit/s above 0"
        for field, value in (("communication", 0), ("uplink", -1), ("downlink", "fast"), ("uplink", True), ("uplink", 1e13))
    },
    '{"a": {"uplink": NaN}}': ", client a, uplink = nan: must be a number of kbit/s above 0",
    **{
        json.dumps({"a": THERE | {"finish_time": value}}): f", client a, finish_time = {value!r}: must be a number of whole"
        for value in (None, 0, -5, 9.5, "10", True)
    },
    **{
        json.dumps({"a": THERE | change}): f", client a, {field}: must be a list of whole seconds from 0 to finish_time = 10"
        for field, change in (
            ("active", {"active": 1}),
            ("active", {"active": [1, 11]}),
            ("active", {"active": [-1, 5]}),
            ("inactive", {"inactive": [3.5, 8]}),
            ("inactive", {"inactive": [3, "8"]}),
        )
    },
    **{
        json.dumps({"a": THERE | change}): ", client a, inactive: must have an end for every start in active, before the"
        for change in (
            {"active": [5, 1]},
            {"inactive": [6, 8]},
            {"inactive": [0, 8]},
            {"inactive": [3, 8, 9]},
            {"inactive": []},
        )
    },
}


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_trace_is_a_sentence_that_names_the_entry(tmp_path, content):
    path = trace(tmp_path, content)
    with pytest.raises(SpecError) as error:
        read_trace(path)
    (problem,) = error.value.problems
    assert problem.startswith(f"hardware.trace = {str(path)!r}{MALFORMED[content]}")


def test_a_trace_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(SpecError, match=r"hardware\.trace = '.*nowhere\.json': cannot be read \(No such file"):
        read_trace(tmp_path / "nowhere.json")


def test_a_device_whose_name_would_be_taken_for_a_section_is_refused(tmp_path, monkeypatch):
    """A run config's names are divided by dots: workers would look for device `pi-4`, field `5`."""
    own = tmp_path / "devices.toml"
    own.write_text('["pi-4.5"]\nmemory_bytes_per_s = 1e10\npeak.fp32 = 1e11\n', encoding="utf-8")
    monkeypatch.setenv("FEDCOSIM_DEVICES", str(own))
    with pytest.raises(ValueError, match=r"hardware\.devices\.pi-4\.5: a name with a dot"):
        options(devices={"pi-4.5": 1.0})

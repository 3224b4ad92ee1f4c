"""What holds for any policy and trace, in every epoch; bounds, determinism, errors."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from neomem_runs import of_trace, prepare, simulation, synthetic

from fedcosim.core.errors import SpecError
from fedcosim.core.options import validate
from fedcosim.hwsim.neomem import NeoMemReport, NeoMemRequest, TraceStore, estimate
from fedcosim.hwsim.neomem.memory import FAST, UNTOUCHED
from fedcosim.hwsim.neomem.policies import POLICIES
from fedcosim.hwsim.neomem.simulator import Simulation
from fedcosim.hwsim.simulator import HwsimError, Job

policies = st.sampled_from(list(POLICIES))
quick = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
EAGER = {  # settings with which a short trace makes every policy move pages
    "neomem": {"theta0": 1, "threshold_period_s": 0.05, "histogram_period_s": 0.05, "clear_period_s": 0.2},
    "autonuma": {"scan_delay_ms": 10, "scan_period_min_ms": 10, "scan_period_max_ms": 30},
    "tpp": {"scan_delay_ms": 10, "scan_period_min_ms": 10, "scan_period_max_ms": 30},
    "pte_scan": {"period_s": 0.05, "quota_bytes_per_s": 1e12},
    "pebs": {"period": 2, "samples_per_s": 1e9},
    "memtis": {"period": 2, "adaptation_samples": 100, "cooling_samples": 300, "migration_period_ms": 20},
    "oracle": {"epoch_accesses": 700},
}


@st.composite
def traces(draw):
    pages = draw(st.integers(2, 60))
    page = st.integers(0, pages - 1) | st.integers(0, max(0, pages // 8 - 1))
    pages_N = draw(arrays(np.int32, st.integers(1, 400), elements=page))
    writes_N = draw(arrays(np.uint8, len(pages_N), elements=st.integers(0, 1)))
    return np.tile(pages_N, 20), np.tile(writes_N, 20)


def report(request: NeoMemRequest, store: TraceStore | None = None, job: Job | None = None) -> NeoMemReport:
    return estimate(request, job or Job(), store or TraceStore())


@quick
@given(trace=traces(), policy=policies, ratio=st.floats(0.05, 4))
def test_books_balance_in_every_epoch(trace, policy, ratio):
    """Capacity, pages, moves, accesses and time."""
    request, store = of_trace(*trace, scale=2048, platform={"fast_to_slow": ratio}, **EAGER)
    run = simulation(request, policy, store)
    memory, clock_ps = run.system.memory, -1
    for _ in run.steps():
        fast = int((memory.state_P & FAST).sum())
        allocated = int((memory.state_P & UNTOUCHED == 0).sum())
        assert fast <= run.system.machine.fast_pages
        if policy not in ("all_fast", "all_slow"):
            assert fast == run.system.machine.fast_pages - memory.free
            assert fast + memory.slow_used == allocated
        assert run.counts.sum() == run.position
        assert memory.ping_pong <= memory.demoted
        assert run.clock_ps > clock_ps
        clock_ps = run.clock_ps
    assert run.position == len(trace[0])
    assert run.counts[:, 1].sum() == trace[1].sum()
    assert sum(run.system.costs.total_ps.values()) == run.clock_ps
    assert run.system.costs.pending_ps == 0


@quick
@given(trace=traces(), policy=policies)
def test_access_time_lies_between_that_of_all_fast_and_all_slow(trace, policy):
    """No placement is better than all in fast memory, or worse than none."""
    request, store = of_trace(*trace, scale=2048, **EAGER)
    best, own, worst = (
        simulation(request, name, store).finish(Job()).cost_ps["access"] for name in ("all_fast", policy, "all_slow")
    )
    assert best <= own <= worst


@quick
@given(trace=traces(), policy=policies)
def test_no_policy_hits_more_often_than_who_knows_each_epoch(trace, policy):
    """Summed over the policy's own epochs: the hits of the pages most accessed in each, counted here."""
    request, store = of_trace(*trace, scale=2048, **EAGER)
    run = simulation(request, policy, store)
    capacity = run.system.machine.pages if policy == "all_fast" else run.system.machine.fast_pages
    begun = best = 0
    epochs = 0
    for _ in run.steps():
        if len(run._epochs) > epochs:
            counts = np.bincount(trace[0][begun : run.position])
            best += int(np.sort(counts)[::-1][:capacity].sum())
            begun, epochs = run.position, len(run._epochs)
    assert int(run.counts[1].sum()) <= best


@quick
@given(trace=traces())
def test_free_oracle_hits_the_most_accessed_pages_of_each_of_its_epochs(trace):
    """Counted by hand."""
    request, store = of_trace(*trace, scale=2048, **EAGER)
    run = simulation(request, "oracle_free", store)
    run.finish(Job())
    blocks = [trace[0][i : i + 700] for i in range(0, len(trace[0]), 700)]
    best = sum(int(np.sort(np.bincount(block))[::-1][: run.system.machine.fast_pages].sum()) for block in blocks)
    assert int(run.counts[1].sum()) == best


@quick
@given(trace=traces(), policy=policies)
def test_what_fits_fast_memory_stays_there_and_costs_what_all_fast_does(trace, policy):
    """Only the profiler's own work may be added."""
    bytes_ = 61 * 4096 * 2048
    request, store = of_trace(*trace, scale=2048, platform={"fast_bytes": bytes_, "slow_bytes": bytes_}, **EAGER)
    if policy == "all_slow":
        return
    run, reference = (simulation(request, name, store).finish(Job()) for name in (policy, "all_fast"))
    assert run.moves == {"promoted": 0, "demoted": 0, "ping_pong": 0, "failed": 0, "moved": 0}
    assert run.cost_ps["access"] == reference.cost_ps["access"]
    if policy in ("first_touch", "oracle_static", "oracle_epoch", "oracle_free"):
        assert run.total_ps == reference.total_ps


@pytest.mark.parametrize("policy", list(POLICIES))
def test_batches_change_nothing(policy):
    """A batch is how often the kernel returns, not what it does."""
    request = synthetic("zipf", 20_000, **EAGER)
    outcomes = [simulation(request, policy, batch=batch).finish(Job()) for batch in (2**18, 977)]
    for field in ("cost_ps", "moves", "stolen_s", "sketch"):
        assert getattr(outcomes[0], field) == getattr(outcomes[1], field)
    assert np.array_equal(outcomes[0].epochs_TF, outcomes[1].epochs_TF)


_CHILD = """
import hashlib, json, sys
from fedcosim.hwsim.neomem import NeoMemRequest, TraceStore, estimate
from fedcosim.hwsim.simulator import Job
request = NeoMemRequest.model_validate_json(sys.argv[1])
print(hashlib.sha256(estimate(request, Job(), TraceStore()).model_dump_json().encode()).hexdigest())
"""


def test_answer_is_the_same_in_any_process_and_with_any_number_of_threads():
    """Byte by byte: two processes with other hash seeds and thread counts, and four threads at a time in this one."""
    request = synthetic("dlrm", 20_000, against=list(POLICIES), seed=3, **EAGER)
    digests = set()
    for threads in ("1", "3"):
        env = os.environ | {"PYTHONHASHSEED": threads, "NUMBA_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", _CHILD, request.model_dump_json()]
        digests.add(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip())
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(report, [request] * 4):
            digests.add(hashlib.sha256(answer.model_dump_json().encode()).hexdigest())
    assert len(digests) == 1


def test_seed_matters():
    """Otherwise the test above shows little."""
    one, two = (report(synthetic(seed=seed)) for seed in (1, 2))
    assert one.provenance.trace_sha256 != two.provenance.trace_sha256


@quick
@given(trace=traces(), policy=policies, warmup=st.integers(0, 300))
def test_report_adds_up(trace, policy, warmup):
    """Breakdown and total, ratios and their parts, after a warm-up too; and it is plain JSON."""
    warmup = min(warmup, len(trace[0]) - 1)
    request, store = of_trace(*trace, scale=2048, policy=policy, against=["pebs"], warmup_accesses=warmup, **EAGER)
    answer = report(request, store)
    assert answer.accesses == len(trace[0]) - warmup
    assert sum(answer.cost_breakdown.model_dump().values()) == pytest.approx(answer.sim_s, rel=1e-9)
    if policy != "all_fast":
        assert answer.slowdown_vs_all_fast == pytest.approx(1 / answer.speedup.all_fast)
    assert answer.latency_ns_p50 <= answer.latency_ns_p99
    assert 0 <= answer.fast_hit_ratio <= 1
    assert answer.energy_low_j <= answer.energy_high_j
    assert len(answer.series.time_s) == len(answer.series.theta) <= 240
    assert answer.series.time_s == sorted(answer.series.time_s)
    assert NeoMemReport.model_validate(json.loads(json.dumps(answer.as_dict()))) == answer


def test_updates_per_second_are_those_of_the_machine_the_model_was_fitted_on():
    """The two logs of the fit, all-local and no migration at a hot set in slow memory: 49.5 and 16.2 million a second."""
    request = synthetic(accesses=50_000, scale=256, own={"gups": {"hot_probability": 1.0}})
    for policy, expected in (("all_fast", 49.5e6), ("first_touch", 16.2e6)):
        assert report(request.model_copy(update={"policy": policy})).accesses_per_s == pytest.approx(expected, rel=0.01)


def test_scale_changes_how_fine_not_what_comes_out():
    """Speed-up and hit ratio of a run at half the size are within a few per cent."""
    small, large = (
        report(synthetic(accesses=accesses, scale=scale)) for accesses, scale in ((1_500_000, 1024), (3_000_000, 512))
    )
    assert small.sim_s == pytest.approx(large.sim_s, rel=0.05)
    assert small.speedup.first_touch == pytest.approx(large.speedup.first_touch, rel=0.05)
    assert small.fast_hit_ratio == pytest.approx(large.fast_hit_ratio, rel=0.05)


def test_promotions_of_a_period_keep_the_quota():
    """The paper's quota, and at most one page more by rounding up."""
    request = synthetic(accesses=300_000, scale=1024)
    run = simulation(request)
    quota = 256 * 2**20 / 4096 / 1024
    promoted, second = 0, 0
    for _ in run.steps():
        if run.clock_ps // 10**12 > second:
            assert run.system.memory.promoted - promoted <= quota + request.neoprof.fifo_entries / 1024
            promoted, second = run.system.memory.promoted, run.clock_ps // 10**12
    assert second > 5
    assert promoted > 0


def test_training_steps_have_nothing_to_gain():
    """A cycle over all pages: no policy is more than 5 % better than first touch."""
    training = {"param_count": 10**7, "optimizer": "adam", "steps": 200, "compute_seconds_per_step": 0.05}
    answer = report(NeoMemRequest(training=training, against=["autonuma", "pebs", "oracle_epoch"]))
    assert 0.9 < answer.speedup.first_touch < 1.05
    assert any("little to gain" in warning for warning in answer.warnings)


def test_repeated_trace_goes_on():
    """One recorded step is run many times."""
    request, store = of_trace(np.arange(50))
    assert report(request.model_copy(update={"repeats": 7}), store).accesses == 350


def test_compute_time_is_what_a_trace_takes_where_memory_costs_next_to_nothing():
    """Spread over accesses and repeats, whatever the threads."""
    request, store = of_trace(np.arange(50), platform={"fast_to_slow": 1, "fast_latency_ns": 1e-6, "slow_latency_ns": 1e-6})
    answer = report(request.model_copy(update={"repeats": 4, "compute_seconds": 0.25}), store)
    assert answer.sim_s == pytest.approx(1.0, rel=0.001)


def test_work_stops_when_nobody_waits():
    """Within a step of work, in the middle of a run."""
    seen: list[float] = []
    job = Job(cancelled=lambda: len(seen) > 3, progress=seen.append)
    with pytest.raises(HwsimError, match="cancelled") as error:
        report(synthetic(accesses=2_000_000), job=job)
    assert error.value.code == "CANCELLED"
    assert len(seen) == 4


def test_progress_goes_from_none_to_all():
    """Over all runs of the comparison."""
    seen: list[float] = []
    report(synthetic(accesses=2_000_000, against=["pebs"]), job=Job(progress=seen.append))
    assert seen == sorted(seen)
    assert seen[0] >= 0
    assert seen[-1] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"platform": {"fast_bytes": 2**30, "slow_bytes": 2**30}}, "FAILED_PRECONDITION", "platform.fast_bytes"),
        ({"platform": {"fast_to_slow": 1, "preset": "dreamed_up"}}, "NOT_FOUND", "platform.preset"),
        ({"platform": {"fast_to_slow": 1, "slow_latency_ns": 100}}, "INVALID_ARGUMENT", "platform.slow_latency_ns"),
        ({"scale": 1, "own": {"pages": 2**30}}, "RESOURCE_EXHAUSTED", "scale"),
        ({"warmup_accesses": 40_000}, "INVALID_ARGUMENT", "warmup_accesses"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(fields, code, field):
    """With the status a service gives and the field at fault."""
    with pytest.raises(HwsimError, match=field.split(".")[-1]) as error:
        report(synthetic(**fields))
    assert (error.value.code, error.value.field) == (code, field)


def test_unknown_trace_is_not_found():
    """Also one that the store has had to let go."""
    with pytest.raises(HwsimError, match="upload it") as error:
        report(NeoMemRequest(trace_id="0" * 64))
    assert (error.value.code, error.value.field) == ("NOT_FOUND", "trace_id")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"platform": {}}, "give exactly one of fast_bytes and fast_to_slow"),
        ({"platform": {"fast_bytes": 1, "fast_to_slow": 1}}, "give exactly one of fast_bytes and fast_to_slow"),
        ({"platform": {"fast_to_slow": 0}}, "platform.fast_to_slow = 0: "),
        ({"platform": {"fast_to_slow": 1, "page_bytes": 5000}}, "not a power of two"),
        ({"platform": {"fast_to_slow": 1, "slow_latency_ns": float("nan")}}, "platform.slow_latency_ns = nan"),
        ({"platform": {"fast_to_slow": 1, "fast_bytes_per_s": -1}}, "platform.fast_bytes_per_s = -1"),
        ({"neoprof": {"columns": 1000}}, "neoprof.columns = 1000: not a power of two"),
        ({"neoprof": {"rows": 5}}, "neoprof.rows = 5"),
        ({"neoprof": {"counter_bits": 33}}, "neoprof.counter_bits = 33"),
        ({"neomem": {"alpha": -1}}, "neomem.alpha = -1"),
        ({"policy": "nimble"}, "policy = 'nimble'"),
        ({"scale": 3}, "scale = 3: not a power of two"),
        ({"repeats": 2}, "repeats = 2: is for trace_id"),
        ({"compute_seconds": 2}, "compute_seconds = 2.0: is for trace_id"),
        ({"trace_id": "0" * 64}, "exactly one of training, synthetic and trace_id, not synthetic and trace_id"),
        ({"synthetic": None}, "exactly one of training, synthetic and trace_id, not none"),
    ],
)
def test_requests_that_make_no_sense_are_refused(fields, message):
    """Before any work, naming the field."""
    with pytest.raises(SpecError) as error:
        validate(NeoMemRequest, {"synthetic": {"generator": "gups"}} | fields)
    assert message in str(error.value)


def test_machine_has_the_ratio_asked_for():
    """1:2 is a third."""
    trace, machine = prepare(synthetic(own={"pages": 300 * 4096}))
    assert (machine.pages, machine.fast_pages) == (300, 100)
    assert isinstance(Simulation(synthetic(), "first_touch", trace, machine).system.memory.free, int)

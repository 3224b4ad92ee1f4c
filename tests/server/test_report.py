import io
import json
import re
import statistics
import subprocess
import sys
import tomllib
from functools import cache
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from rich.console import Console
from scipy import stats

from fedcosim.core.errors import RunError
from fedcosim.server.report import comparison, load_record, print_comparison, record_schema, write_comparison, write_report
from fedcosim.server.report.comparison import PAIRED_FIGURES, method_labels
from fedcosim.server.report.reading import (
    KEY_FIGURES,
    by_largest_class,
    client_accuracies,
    format_bytes,
    format_seconds,
    label_counts,
    learning_curve,
    loss_curves,
    standing,
)

TRACEBACK = 'Traceback (most recent call last):\n  File "w.py", line 3, in <module>\n    x & y\nValueError: got <b>NaN</b>\n'


def make_record(n=8, last=20, every=5, strategy="fedavg", seed=1, gain=0.0, alpha=0.3, **changes):
    """A plausible record: accuracies rise from chance, some rounds are not evaluated, one client fails in round 3."""
    rng = np.random.default_rng([seed, n])
    counts = (rng.dirichlet([alpha] * 10, n) * rng.integers(60, 300, (n, 1))).round().astype(int)
    skill = rng.normal(0, 0.09, n)
    entries = []
    for r in range(1, last + 1):
        accuracy = np.clip(0.1 + (0.62 + gain) * (1 - np.exp(-r / 6)) + skill + rng.normal(0, 0.01), 0, 1)
        known = every and r % every == 0
        entries.append(
            {
                "round": r,
                "train_loss": float(2.3 * np.exp(-r / 8) + 0.2 + rng.normal(0, 0.02)),
                **{key: value if known else None for key, value in spread(accuracy).items()},
                **{"bytes_up": 402_000 + r, "bytes_up_dense": 804_000, "bytes_down": 810_000 + r, "wall_s": 1.1 + r / 100},
                **{"sim_s": 42.5, "energy_j": 188.0, "epsilon": 0.9 * r**0.5, "sampled": 8},
                "failed": [{"client": 1, "error": TRACEBACK}] if r == 3 else [],
            }
        )
    final = spread(accuracy) | {"accuracy_weighted": float(accuracy.mean()) + 0.003, "majority_class": 0.4415}
    final |= {
        key: sum(e[key] for e in entries) for key in ("bytes_up", "bytes_up_dense", "bytes_down", "wall_s", "sim_s", "energy_j")
    }
    final |= {"epsilon": entries[-1]["epsilon"], "rounds": last, "unevaluated_clients": 0}
    spec = {
        **{"name": f"{strategy}-fmnist", "seed": seed, "federation": {"clients": n, "per_round": 8, "rounds": last}},
        **{
            "data": {"source": "fashion-mnist", "alpha": alpha},
            "strategy": {"name": strategy},
            "train": {"lr": 0.05, "momentum": None},
        },
        **{"privacy": {"epsilon": 10, "delta": 1e-5}, "engine": {"workers": seed}},
    }
    return {
        **{
            "schema": 1,
            "id": f"{strategy}-fmnist-{seed}-{alpha}",
            "name": f"{strategy}-fmnist",
            "status": "finished",
            "reason": None,
        },
        **{"spec": spec, "versions": dict.fromkeys(["fedcosim", "flwr", "torch", "ray", "python"], "1.2.3")},
        **{"started": "2026-11-23T03:30:00+00:00", "ended": "2026-11-23T03:31:00+00:00", "rounds": entries, "final": final},
        "clients": [
            {"client": c, "accuracy": float(accuracy[c]), "loss": 0.5, "num_train": int(counts[c].sum()), "num_test": 100}
            | {"rounds": 5, "device": None}
            for c in range(n)
        ],
        **{"partition": {"classes": 10, "train_label_counts": counts.tolist()}, "artifacts": ["report.html"]},
        **changes,
    }


def spread(accuracy):
    p10, p90 = np.percentile(accuracy, [10, 90])
    values = {"mean": accuracy.mean(), "std": accuracy.std(), "p10": p10, "p90": p90, "worst": accuracy.min()}
    return {f"accuracy_{key}": float(value) for key, value in values.items()}


def failed_early(**changes):
    ended = {
        "status": "failed",
        "reason": "data.source: cannot be read",
        "rounds": [],
        "final": {},
        "clients": [],
        "partition": None,
    }
    return make_record(**(ended | changes))


RECORDS = {
    "eight clients": make_record(),
    "one client": make_record(n=1),
    "a thousand clients": make_record(n=1000),
    "one round": make_record(last=1, every=1),
    "never evaluated": make_record(every=None, final={}, clients=[], status="cancelled"),
    "failed early": failed_early(),
    "empty partition": failed_early(partition={}),
    "running": make_record(final={}, clients=[], status="running", ended=None, partition=None),
    "nobody has an accuracy": make_record(
        n=3,
        every=None,
        partition=None,
        clients=[client | {"accuracy": None} for client in make_record(n=3)["clients"]],
        final=dict.fromkeys(make_record()["final"])
        | dict.fromkeys(("bytes_up", "bytes_up_dense", "bytes_down", "wall_s", "rounds", "unevaluated_clients"), 0),
    ),
}


@pytest.fixture
def save(tmp_path):
    def save(record, name="run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(record))
        return tmp_path / name

    return save


@pytest.fixture(scope="module")
def report_of(tmp_path_factory):
    """The source of the report on a record of `RECORDS`, written once."""

    @cache
    def report_of(name):
        run = tmp_path_factory.mktemp("run")
        (run / "result.json").write_text(json.dumps(RECORDS[name]))
        return write_report(run).read_text()

    return report_of


class Html(HTMLParser):
    """Collects what a browser would see: elements with attributes, and text; complains where elements do not nest."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, source):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def assert_self_contained(source):
    page = Html(source)
    assert "script" not in {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        for key, value in attributes.items():
            assert not re.search(r"https?:|//", value or "") or (
                key.endswith("href") and value.startswith("data:image/png;base64,")
            )
            assert not key.startswith("on")
    assert not re.search(r"@import|url\((?!#)", source)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    return page


@pytest.mark.parametrize("name", RECORDS)
def test_every_kind_of_record_gives_a_self_contained_report(name, report_of):
    page = assert_self_contained(report_of(name))
    assert RECORDS[name]["id"] in page.text
    assert RECORDS[name]["status"] in page.text


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_the_fixtures_are_records_by_the_schema(record):
    Draft202012Validator(record_schema()).validate(record)


@pytest.mark.parametrize(
    "breakage",
    [
        {"status": "done"},
        {"ended": None},
        {"reason": None, "status": "failed"},
        {"final": {"accuracy_mean": 0.5}},
        {"final": make_record()["final"] | {"accuracy_mean": 53.1}},
        {"rounds": [make_record()["rounds"][0] | {"bytes_up": 1.5}]},
        {"rounds": [make_record()["rounds"][0] | {"surprise": 1}]},
        {"partition": {"classes": 10}},
        {"surprise": 1},
    ],
)
def test_the_schema_refuses_what_is_no_record(breakage):
    validator = Draft202012Validator(record_schema())
    Draft202012Validator.check_schema(record_schema())
    assert not validator.is_valid(make_record(**breakage))
    assert validator.is_valid(make_record(final=make_record()["final"] | {"lowest_rank": 4}))


def test_every_field_of_the_schema_is_described():
    def undescribed(schema, path=()):
        for key, value in schema.get("properties", {}).items():
            if "description" not in value:
                yield (*path, key)
            yield from undescribed(value, (*path, key))
        if "items" in schema and schema["items"].get("type") == "object":
            yield from undescribed(schema["items"], (*path, "[]"))

    assert list(undescribed(record_schema())) == []


def test_every_final_figure_appears_exactly_and_for_people(save):
    record = make_record()
    record["final"]["lowest_rank"] = 4711
    page = Html(write_report(save(record)).read_text())
    for key, value in record["final"].items():
        assert key in page.text
        assert json.dumps(value) in page.text
    assert f"{100 * record['final']['accuracy_mean']:.1f} %" in page.text
    assert f"{record['final']['bytes_up'] / 1e6:.3g} MB" in page.text
    assert "ε" in page.text
    assert "δ = 1e-05" in page.text


def test_hostile_text_stays_text(save):
    hostile = "<script>alert('$x$')</script>"
    record = make_record(name=hostile, reason=hostile, id=hostile)
    record["rounds"][4]["failed"] = [{"client": 2, "error": hostile}]
    record["spec"]["strategy"]["name"] = record["spec"]["data"]["source"] = hostile
    record["versions"]["ray"] = hostile
    run = save(record)
    for path in (write_report(run), write_comparison([run], run / "compare.html")):
        page = assert_self_contained(path.read_text())
        assert hostile in page.text


def test_a_traceback_is_folded_under_its_last_line(report_of):
    page = Html(report_of("eight clients"))
    assert page.count("details") == 1
    assert "ValueError: got <b>NaN</b>" in page.text
    assert TRACEBACK.splitlines()[1] in page.text


def test_a_flood_of_failures_is_cut_and_says_so(save):
    record = make_record()
    record["rounds"][0]["failed"] = [{"client": c, "error": "out of memory"} for c in range(260)]
    page = Html(write_report(save(record)).read_text())
    assert page.text.count("out of memory") == 200
    assert "61 more are in result.json" in page.text


def test_the_spec_appears_as_toml_without_none(report_of):
    pre = re.findall(r"<pre>(.*?)</pre>", report_of("eight clients"), flags=re.DOTALL)[-1]
    spec = tomllib.loads(pre.replace("&#34;", '"'))
    expected = make_record()["spec"]
    del expected["train"]["momentum"]
    assert spec == expected


@pytest.mark.parametrize(
    ("name", "figures"),
    [("eight clients", 7), ("never evaluated", 2), ("failed early", 0), ("running", 5), ("nobody has an accuracy", 1)],
)
def test_figures_without_data_are_left_out(name, figures, report_of):
    assert Html(report_of(name)).count("figure") == figures


def test_writing_twice_gives_the_same_bytes(save):
    runs = [save(make_record(n=60, seed=s, strategy=n), f"{n}{s}") for s, n in ((1, "fedavg"), (2, "fedprox"))]
    first = [write_report(run).read_bytes() for run in runs] + [write_comparison(runs, runs[0] / "c.html").read_bytes()]
    again = [write_report(run).read_bytes() for run in runs] + [write_comparison(runs, runs[0] / "c.html").read_bytes()]
    assert first == again


def test_a_report_for_a_thousand_clients_stays_small(report_of):
    assert len(report_of("a thousand clients")) < 400_000


def test_reading_a_report_imports_no_torch():
    code = "import sys, fedcosim.server.report; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawing_leaves_matplotlib_as_it_was(save):
    before = dict(matplotlib.rcParams)
    write_report(save(make_record(every=None, clients=[], partition=None)))
    assert dict(matplotlib.rcParams) == before


def test_cumulative_bytes_count_rounds_without_evaluation():
    record = make_record(last=13, every=4)
    curve = learning_curve(record)
    assert curve.round.tolist() == [4, 8, 12]
    for i, last in enumerate(curve.round):
        assert curve.upload_bytes[i] == sum(e["bytes_up"] for e in record["rounds"] if e["round"] <= last)
        assert curve.worst[i] == record["rounds"][last - 1]["accuracy_worst"]


def test_rounds_without_a_training_loss_are_left_out_of_its_curve():
    record = make_record(last=4)
    record["rounds"][1]["train_loss"] = None
    losses = [line["train_loss"] for line in record["rounds"]]
    assert loss_curves(record) == {"": ([1, 3, 4], [losses[0], *losses[2:]])}


def test_cumulative_bytes_do_not_overflow():
    record = make_record(last=3, every=1)
    for entry in record["rounds"]:
        entry["bytes_up"] = 3 * 10**15
    assert learning_curve(record).upload_bytes[-1] == 9 * 10**15


def test_a_running_run_stands_where_its_rounds_are():
    record = make_record(last=7, every=3, final={}, status="running", ended=None)
    figures = standing(record)
    assert figures["bytes_down"] == sum(e["bytes_down"] for e in record["rounds"])
    assert figures["accuracy_mean"] == record["rounds"][5]["accuracy_mean"]
    assert figures["epsilon"] == record["rounds"][6]["epsilon"]
    assert standing(failed_early()) == {}


def test_before_its_first_evaluation_a_run_has_costs_and_a_baseline(save):
    record = make_record(last=3, every=5, final={"majority_class": 0.4}, status="running", ended=None)
    Draft202012Validator(record_schema()).validate(record)
    assert standing(record)["majority_class"] == 0.4
    assert standing(record)["bytes_up"] == sum(e["bytes_up"] for e in record["rounds"])
    page = Html(write_report(save(record)).read_text())
    assert "Figures so far" in page.text
    assert "Final figures" not in page.text


def test_clients_are_sorted_worst_first_without_the_unevaluated():
    record = make_record(n=3)
    for client, accuracy in zip(record["clients"], (0.9, None, 0.2), strict=True):
        client["accuracy"] = accuracy
    clients, accuracy = client_accuracies(record)
    assert clients.tolist() == [2, 0]
    assert accuracy.tolist() == [0.2, 0.9]


def test_clients_of_the_partition_are_ordered_by_largest_class_then_share():
    counts = np.array([[0, 9, 1], [5, 0, 0], [4, 3, 3], [0, 0, 0], [0, 10, 0]])
    assert by_largest_class(counts).tolist() == [1, 2, 3, 4, 0]
    assert label_counts(failed_early()) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_bytes(0), "0 bytes"),
        (format_bytes(999), "999 bytes"),
        (format_bytes(1_000), "1 kB"),
        (format_bytes(12_345_678), "12.3 MB"),
        (format_bytes(999_999), "1 MB"),
        (format_bytes(-2_500_000), "-2.5 MB"),
        (format_seconds(1.234), "1.23 s"),
        (format_seconds(59.97), "1 min 00 s"),
        (format_seconds(3599.7), "1 h 00 min"),
        (format_seconds(86_400), "24 h 00 min"),
        (KEY_FIGURES["energy_j"](188_000.0), "188 kJ"),
        (KEY_FIGURES["epsilon"](None), "–"),
    ],
)
def test_numbers_are_written_for_people(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no result.json"),
        ("{", "cannot be read as JSON"),
        ("[]", "not a run record"),
        ('{"schema": 2}', "schema = 2: this version reads schema 1 only"),
        ("{}", "schema = None"),
        ('{"schema": 1, "id": "x"}', "lacks name, status"),
    ],
)
def test_an_unusable_record_is_refused_in_a_sentence(content, complaint, tmp_path):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(RunError, match=re.escape(complaint)) as caught:
        load_record(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_run_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(RunError, match="nowhere: no such run directory"):
        load_record(tmp_path / "nowhere")


def test_numbers_that_are_not_finite_are_read_as_unknown(save):
    record = make_record(last=2, every=1)
    record["rounds"][1]["train_loss"] = float("nan")
    assert load_record(save(record))["rounds"][1]["train_loss"] is None


@pytest.fixture
def three_seeds(save):
    """Two methods on seeds 1, 2, 3, the second also on 4; one more run of the first failed."""
    plan = [("fedavg", s, 0.0, 0.3) for s in (1, 2, 3)] + [("fedperfix", s, 0.15, 0.3) for s in (1, 2, 3, 4)]
    runs = [save(make_record(strategy=n, seed=s, gain=g, alpha=a), f"{n}{s}") for n, s, g, a in plan]
    return [*runs, save(make_record(seed=5, status="failed", reason="boom"), "broken")]


def final(runs, key):
    return np.array([json.loads((run / "result.json").read_text())["final"][key] for run in runs])


def test_a_comparison_has_one_row_a_run(three_seeds):
    rows = comparison([*three_seeds, three_seeds[0]]).as_dict()["rows"]
    assert [row["seed"] for row in rows] == [1, 2, 3, 1, 2, 3, 4, 5]
    assert rows[3]["strategy"] == "fedperfix"
    assert [row["bytes_up_dense"] for row in rows] == final(three_seeds, "bytes_up_dense").tolist()
    json.dumps(comparison(three_seeds).as_dict(), allow_nan=False)


def test_methods_are_summarised_over_the_seeds_that_ended_well(three_seeds):
    fedavg, fedperfix = comparison(three_seeds).groups
    assert (fedavg.seeds, fedperfix.seeds) == ([1, 2, 3], [1, 2, 3, 4])
    for group, runs in ((fedavg, three_seeds[:3]), (fedperfix, three_seeds[3:7])):
        for key, spread in group.figures.items():
            assert spread.mean == pytest.approx(final(runs, key).mean())
            assert spread.std == pytest.approx(statistics.stdev(final(runs, key).tolist()))
            assert spread.n == len(runs)


def test_paired_differences_are_those_of_the_common_seeds(three_seeds):
    pairs = comparison(three_seeds).pairs
    own = ("retrieval_sum_1_5_10_last3", "retrieval_sum_1_5_10", "retrieval_sum_1_last3")
    known = [key for key in PAIRED_FIGURES if key not in own]  # those are of multimodal runs only
    assert [pair.figure for pair in pairs] == known
    for pair in pairs:
        differences = final(three_seeds[:3], pair.figure) - final(three_seeds[3:6], pair.figure)
        assert (pair.first, pair.second, pair.seeds) == ("fedavg", "fedperfix", [1, 2, 3])
        assert pair.mean == pytest.approx(differences.mean())
        assert pair.standard_error == pytest.approx(stats.sem(differences))
    assert pairs[0].separates
    assert not pairs[-1].separates  # the same bytes: a difference of exactly nothing


@pytest.mark.parametrize(
    ("differences", "separates"),
    [
        ([0.1, 0.1], False),  # as clear as can be, but two seeds only
        ([0.1, 0.11, 0.12], True),
        ([0.1, -0.1, 0.3], False),  # mean 0.1, standard error 0.115
        ([0.0, 0.0, 0.0], False),
        ([-0.1, -0.11, -0.12], True),
    ],
)
def test_the_house_rule_decides_what_separates(differences, separates, save):
    runs = []
    for seed, difference in enumerate(differences):
        for strategy, accuracy in (("fedavg", 0.5 + difference), ("fedprox", 0.5)):
            record = make_record(strategy=strategy, seed=seed)
            record["final"]["accuracy_mean"] = accuracy
            runs.append(save(record, f"{strategy}{seed}"))
    pair = comparison(runs).pairs[0]
    assert pair.mean == pytest.approx(np.mean(differences))
    assert pair.separates is separates


def test_runs_of_one_seed_count_once(save):
    runs = []
    for i, (strategy, seed, accuracy) in enumerate(
        [("fedavg", 1, 0.4), ("fedavg", 1, 0.6), ("fedavg", 2, 0.7), ("fedprox", 1, 0.5), ("fedprox", 2, 0.5)]
    ):
        record = make_record(strategy=strategy, seed=seed)
        record["final"]["accuracy_mean"] = accuracy
        runs.append(save(record, str(i)))
    compared = comparison(runs)
    assert compared.groups[0].figures["accuracy_mean"].mean == pytest.approx(0.6)
    assert compared.pairs[0].mean == pytest.approx(0.1)
    assert not compared.pairs[0].separates


def test_single_runs_are_not_summarised(save):
    compared = comparison([save(make_record(), "a"), save(make_record(strategy="fedprox"), "b"), save(failed_early(), "c")])
    assert compared.groups == compared.pairs == []
    assert compared.rows[2].figures["accuracy_mean"] is None


def test_methods_of_one_strategy_are_told_apart_by_what_differs():
    specs = [
        make_record(alpha=a, strategy=s, seed=n)["spec"]
        for a, s, n in ((0.1, "fedavg", 1), (0.3, "fedavg", 2), (0.3, "fedprox", 3))
    ]
    assert method_labels(specs) == ["fedavg, data.alpha = 0.1", "fedavg, data.alpha = 0.3", "fedprox"]


def test_a_comparison_page_is_self_contained_and_holds_every_run(three_seeds, tmp_path):
    page = assert_self_contained(write_comparison(three_seeds, tmp_path / "compare.html").read_text())
    for run in three_seeds:
        assert json.loads((run / "result.json").read_text())["id"] in page.text
    assert page.count("figure") == 4  # over rounds, bytes, simulated time and energy
    assert page.count("table") == 4
    assert "separates: first lower" in page.text


def test_a_terminal_shows_the_same_tables(three_seeds, save):
    console = Console(width=220, record=True, file=io.StringIO())
    print_comparison(comparison([*three_seeds, save(make_record(strategy="[red]x[/red]"), "markup")]), console)
    text = console.export_text()
    assert "Methods over seeds" in text
    assert "does not separate" in text
    assert "[red]x[/red]" in text


def test_a_narrow_terminal_loses_no_column(three_seeds):
    console = Console(width=80, record=True, file=io.StringIO())
    compared = comparison(three_seeds)
    print_comparison(compared, console)
    text = console.export_text()
    assert "…" not in text
    assert text.count("44.1 %") == len(compared.rows)  # the last column
    assert all(len(line) <= 80 for line in text.splitlines())

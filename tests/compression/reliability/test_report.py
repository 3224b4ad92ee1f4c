"""A class that only its own samples calibrate: found out, while the average hides it. And the report, recomputed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from fedcosim.clients.models import MODELS, initialise
from fedcosim.compression import parse
from fedcosim.compression.reliability import Draw, Pool, Subject, Thresholds, assess
from fedcosim.compression.rptq import Recipe
from fedcosim.core.errors import SpecError

PLANTED = 9
RECIPE = Recipe(bits="W8A8")


@pytest.fixture(scope="module")
def subject():
    """A ViT on digits, whose nines are other digits with a bright stamp, where others have a faint one: only ranges that no
    other class reaches tell them apart."""
    images, labels = load_digits(return_X_y=True)
    x_NCHW, y_N = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1, torch.tensor(labels)
    planted = y_N == PLANTED
    x_NCHW[planted] = x_NCHW[~planted][: int(planted.sum())]
    faint_N111 = 2 * torch.rand(len(y_N), 1, 1, 1, generator=torch.Generator().manual_seed(1))
    x_NCHW[:, :, 6:, 6:] += torch.where(planted[:, None, None, None], 3.0, faint_N111)
    module = initialise(MODELS.parse({"name": "vit", "dim": 32, "depth": 2, "heads": 2, "patch": 4}), (1, 8, 8), 10, 0)
    optimizer, order = torch.optim.Adam(module.parameters(), 3e-3), torch.Generator().manual_seed(0)
    for _ in range(12):
        for batch in torch.randperm(len(y_N), generator=order).split(64):
            optimizer.zero_grad()
            F.cross_entropy(module(x_NCHW[batch]), y_N[batch]).backward()
            optimizer.step()
    module.eval()
    clients_N = torch.arange(len(y_N)) % 4
    clients_N[:40] = 5  # client 4 has nothing
    kept = torch.cat([torch.nonzero(y_N != PLANTED).flatten(), torch.nonzero(y_N == PLANTED).flatten()[:100]])
    train = Pool(x_NCHW, y_N, clients_N)
    return Subject(module, train, Pool(x_NCHW[kept], y_N[kept], clients_N[kept]), 10, 6)


@pytest.fixture(scope="module")
def few(subject):
    """A grouping with a group of three items."""
    return np.where(np.arange(len(subject.test.y_N)) < 3, "few", "many")


@pytest.fixture(scope="module")
def made(subject, few):
    thresholds = Thresholds(min_group=50, resamples=500)
    return assess(subject, RECIPE, Draw(), thresholds, "quick", 3, {"size": few})


def test_a_planted_single_class_failure_is_found_while_the_average_hides_it(made):
    """Calibrated without the class, it fails; calibrated with it, it does not."""
    lines = {(line["factor"], line["level"]): line for line in made.report["factors"]}
    without = lines["distribution", f"without class {PLANTED}"]
    assert without["verdict"] == "FAIL"
    assert without["worst_group"] == f"class {PLANTED}"
    assert without["worst_group_drop"] > 0.1
    assert without["average_drop"] < 0.02
    assert lines["distribution", "without class 0"]["worst_group_drop"] < 0.05
    assert lines["base", "matched"]["verdict"] == "PASS"
    assert made.report["worst_of_calibrations"]["worst_drop"] >= without["worst_group_drop"]


def test_a_group_of_three_is_listed_and_not_judged(made):
    (group,) = [group for group in made.report["groups"] if group["name"] == "few"]
    assert (group["items"], group["eligible"]) == (3, False)


def test_groups_without_items_are_told_of_and_forbid_a_pass(made):
    assert made.report["missing_groups"] == {"class": [], "client": [4]}
    assert made.report["verdict"] == "WARN"
    assert {one["verdict"] for one in made.report["judgements"]} == {"PASS"}


def test_the_report_follows_from_the_answers_alone(made, few):
    """Everything but intervals and chance, from the file of answers, by a few lines that share nothing with the code."""
    answers = made.answers
    truth, client = answers["truth"].tolist(), answers["client"].tolist()
    names = {"class": [str(t) for t in truth], "client": [str(c) for c in client], "size": few.tolist()}
    names["class x client"] = [f"class {t} of client {c}" for t, c in zip(truth, client, strict=True)]
    noises = {"gaussian": "gaussian", "blur": "blur"}
    groupings = {group["grouping"] for group in made.report["groups"]}
    assert groupings == names.keys() - made.report["too_small"].keys()
    for line in made.report["factors"]:
        noise = noises[line["level"]] if line["factor"] == "test noise" else "none"
        before, after = answers[f"float/{noise}"].tolist(), answers[f"trial/{line['trial']}"].tolist()
        asked = [n for n in range(len(truth)) if after[n] >= 0]
        ok = {n: ((before[n] == truth[n]), (after[n] == truth[n])) for n in asked}
        assert line["items"] == len(asked)
        assert line["accuracy"] == sum(ok[n][1] for n in asked) / len(asked)
        assert line["average_drop"] == pytest.approx(sum(ok[n][0] - ok[n][1] for n in asked) / len(asked), abs=1e-12)
        assert line["flip_rate"] == sum(before[n] != after[n] for n in asked) / len(asked)
        if line["factor"] == "own data":
            continue
        drops, lowest = {}, {}
        for grouping in groupings:
            for name in set(names[grouping]):
                members = [n for n in asked if names[grouping][n] == name]
                if len(members) >= 50:
                    drops[f"{grouping} {name}"] = sum(ok[n][0] - ok[n][1] for n in members) / len(members)
                    lowest[f"{grouping} {name}"] = sum(ok[n][1] for n in members) / len(members)
        assert line["worst_group_drop"] == pytest.approx(max(drops.values()), abs=1e-12)
        assert drops[line["worst_group"]] == pytest.approx(max(drops.values()), abs=1e-12)
        assert line["worst_accuracy"] == min(lowest.values())
        if line["factor"] == "base":
            for group in made.report["groups"]:
                members = [n for n in asked if names[group["grouping"]][n] == group["name"]]
                assert group["items"] == len(members)
                assert group["before"] == pytest.approx(sum(ok[n][0] for n in members) / len(members), abs=1e-12)
                assert group["lost"] == sum(ok[n][0] and not ok[n][1] for n in members)
                assert group["won"] == sum(ok[n][1] and not ok[n][0] for n in members)
                assert group["flips"] == sum(before[n] != after[n] for n in members)


def test_own_calibration_is_judged_on_the_same_items(made):
    own = made.report["own_calibration"]
    truth, client = made.answers["truth"], made.answers["client"]
    for line, trial in zip(own["clients"], [one for one in made.report["factors"] if one["factor"] == "own data"], strict=True):
        at = client == line["client"]
        mine = made.answers[f"trial/{trial['trial']}"]
        assert (mine[~at] == -1).all()
        assert line["own"] == (mine[at] == truth[at]).mean()
        assert line["pooled"] == (made.answers["trial/0"][at] == truth[at]).mean()
        assert line["lost_by_own"] == pytest.approx(line["pooled"] - line["own"])


def test_the_report_is_plain_and_tells_where_it_comes_from(made):
    assert json.loads(json.dumps(made.report, allow_nan=False))["schema"] == 1
    assert made.report["provenance"]["calibration_samples"] == 64
    assert made.report["bytes_upload"] < made.report["bytes_dense"] / 2
    assert len(made.report["sensitivity"]) == 2


def test_the_same_seed_gives_the_same_report(subject):
    """By a codec that calibrates itself, so that what is drawn counts."""
    options = parse({"codec": "asvd", "target": "weights"})
    reports = [assess(subject, options, Draw(samples=8), Thresholds(resamples=100), "quick", 3).report for _ in range(2)]
    assert len({line["accuracy"] for line in reports[0]["factors"]}) > 2
    assert {**reports[0], "seconds": 0} == {**reports[1], "seconds": 0}


def test_other_codecs_are_judged_too(subject):
    """Nothing to calibrate, so nothing but the test items varies."""
    options = parse({"codec": "int4", "target": "weights"})
    report = assess(subject, options, Draw(), Thresholds(), "quick", 3).report
    assert [line["factor"] for line in report["factors"]] == ["base", "test noise", "test noise"]
    assert (report["codec"], report["own_calibration"], report["sensitivity"]) == ("int4", None, [])


def test_a_model_without_blocks_is_refused_before_work_starts(subject):
    lenet = initialise(MODELS.parse({"name": "lenet"}), (1, 28, 28), 10, 0)
    with pytest.raises(SpecError, match="no transformer block"):
        assess(replace(subject, module=lenet), Recipe(bits="W4A16"), Draw(), Thresholds())


def test_groups_that_are_all_too_small_are_refused(subject):
    with pytest.raises(SpecError, match="no class and no client has so many test items"):
        assess(subject, Recipe(), Draw(), Thresholds(min_group=10_000))
    with pytest.raises(SpecError, match="largest group has 1 items"):
        assess(
            subject, Recipe(bits="W8A16", rounding="rtn"), Draw(), Thresholds(), groups={"x": np.arange(len(subject.test.y_N))}
        )

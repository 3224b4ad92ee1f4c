"""The page of a reliability report, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .figures import ACCENT, SERIES, picture
from .page import Card, Page, Table
from .reading import MISSING, Record, format_bytes

GROUPS_SHOWN = 40


def points(share: float | None) -> str:
    """Write a share as percentage points."""
    return MISSING if share is None else f"{100 * share:.1f}"


def tables(report: Record) -> list[Table]:
    """Return the tables of a report: judgements, groups, trials, own calibration, sensitivity."""
    found = [_judgements(report), _groups(report), _trials(report), _own(report), _sensitivity(report)]
    return [table for table in found if table.rows]


def _between(interval: Sequence[float]) -> str:
    return f"{points(interval[0])} to {points(interval[1])}"


def _judgements(report: Record) -> Table:
    rows = [
        (one["verdict"], one["figure"], points(one["value"]), _between(one["interval"]), points(one["limit"]))
        for one in report["judgements"]
    ]
    note = "PASS: the whole interval is within the limit; FAIL: all of it is beyond; WARN: these items cannot tell."
    if any(report["missing_groups"].values()):
        note += f" Without test items: {report['missing_groups']}."
    return Table("Verdicts, in percentage points", ("verdict", "figure", "value", "interval", "limit"), rows, 2, note)


def _groups(report: Record) -> Table:
    rows = []
    for group in report["groups"][:GROUPS_SHOWN]:
        figures = (points(group["before"]), points(group["after"]), points(group["drop"]), _between(group["interval"]))
        p = MISSING if group["mcnemar"] is None else f"{group['mcnemar']:.2g}"
        rows.append((group["grouping"], group["name"], str(group["items"]), *figures, p, str(group["flips"])))
        if not group["eligible"]:
            rows[-1] = (*rows[-1][:1], f"{group['name']} (too few to judge)", *rows[-1][2:])
    left_out = len(report["groups"]) - len(rows)
    note = " ".join(
        f"{one['name']}: if groups made no difference, the largest drop would be {points(one['chance_drop'])} on average, "
        f"and at least as large as it is in {points(one['chance_p'])} % of cases."
        for one in report["groupings"]
    )
    note += f" {left_out} more groups are in reliability.json." if left_out else ""
    head = ("grouping", "group", "items", "before", "after", "drop", "interval", "McNemar p", "flips")
    return Table("Groups, the one that lost most first", head, rows, 2, note)


def _trials(report: Record) -> Table:
    rows = []
    for one in report["factors"]:
        size = MISSING if one["bytes_upload"] is None else format_bytes(one["bytes_upload"])
        bits = [MISSING if one[key] is None else str(one[key]) for key in ("weight_bits", "activation_bits")]
        drops = (points(one["average_drop"]), points(one["worst_group_drop"]), points(one["worst_accuracy"]))
        who = one["worst_group"] or MISSING
        rows.append((one["factor"], one["level"], one["verdict"], who, size, *bits, points(one["accuracy"]), *drops))
    head = ("factor", "level", "verdict", "worst group", "upload", "weight bits", "activation bits", "accuracy")
    note = "Bits of activations are those of quantised inference; they save nothing on the wire."
    return Table("Trials", (*head, "average drop", "worst drop", "worst accuracy"), rows, 4, note)


def _own(report: Record) -> Table:
    own = report["own_calibration"]
    rows = []
    for one in own["clients"] if own else ():
        figures = (points(one[key]) for key in ("before", "pooled", "own", "lost_by_own"))
        rows.append((str(one["client"]), str(one["items"]), *figures, _between(one["interval"]), f"{one['mcnemar']:.2g}"))
    head = ("client", "items", "float", "pooled", "own data", "lost by own", "interval", "McNemar p")
    return Table("Clients that calibrate on their own data, against calibration on all clients' data", head, rows)


def _sensitivity(report: Record) -> Table:
    rows = [
        (
            one["block"],
            one["widest_site"],
            MISSING if one["sqnr_db"] is None else f"{one['sqnr_db']:.1f}",
            f"{one['range_ratio']:.1f}",
        )
        for one in report["sensitivity"]
    ]
    head = ("block", "site of the widest channel", "signal to noise, dB", "widest over median channel")
    note = f"No activations are quantised outside blocks: {', '.join(report['outside_blocks'])}."
    return Table("Blocks quantised alone, the most disturbing first", head, rows, 2, note)


def _draw_trials(figure: Figure, lines: Sequence[Record]) -> None:
    axes = figure.subplots()
    names = [f"{line['factor']}: {line['level']}" for line in lines]
    axes.barh(range(len(lines)), [line["worst_accuracy"] for line in lines], color=ACCENT, alpha=0.6)
    axes.plot([line["accuracy"] for line in lines], range(len(lines)), "o", color=SERIES[1], markersize=3.5)
    axes.set_yticks(range(len(lines)), names, fontsize=7)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("accuracy: worst group (bar), all items (point) (%)")


def reliability_page(report: Record) -> Page:
    """Return the page of a report, ready to write."""
    lines = [line for line in report["factors"] if line["worst_accuracy"] is not None]
    worst, calibrations = report["worst_group"], report["worst_of_calibrations"]
    base: dict[str, Any] = report["factors"][0]
    bits = f"W{base['weight_bits']}A{base['activation_bits']}" if base["weight_bits"] else ""
    size = MISSING if report["bytes_upload"] is None else format_bytes(report["bytes_upload"])
    cards = [
        Card("verdict", report["verdict"], report["recommendation"]),
        Card("average drop", points(report["average_drop"]), f"points; {_between(report['average_interval'])}"),
        Card("worst group's drop", points(worst["drop"]), f"points; {worst['grouping']} {worst['name']}"),
        Card("flips", points(report["flip_rate"]), "% of predictions changed"),
        Card(
            "worst of calibrations", points(calibrations["worst_drop"]), f"points in its worst group; {calibrations['worst']}"
        ),
        Card("upload", size, f"of {format_bytes(report['bytes_dense'])} dense"),
    ]
    provenance = report["provenance"]
    return Page(
        title=f"Reliability: {report['codec']} {bits}".strip(),
        subtitle=" · ".join(
            [report["run"], f"{report['grid']} grid", f"{report['quantisations']} models", f"{report['seconds']} s"]
        ),
        cards=cards,
        pictures=[
            picture("What trials do to the worst group", lambda f: _draw_trials(f, lines), 0.6 + 0.19 * len(lines), wide=True)
        ],
        tables=tables(report),
        versions=" · ".join(
            [f"seed {provenance['seed']}", f"model {provenance['model']}", f"calibration {provenance['calibration'][:16]}"]
            + [f"{name} {number}" for name, number in sorted(provenance["versions"].items())]
        ),
    )

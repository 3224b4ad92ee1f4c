"""A run's report: one self-contained page, nothing fetched."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import tomli_w

from ...hwsim.roofline.estimate import RooflineReport
from ...hwsim.roofline.figures import draw_chart
from .figures import Picture, picture, run_pictures
from .reading import ENDED_WELL, KEY_FIGURES, MISSING, Record, figures_of_types, key_figure, load_record, standing


@dataclass(frozen=True)
class Table:
    """A table for a page or a terminal; all columns but the first `text_columns` hold numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    note: str = ""

    def without_empty_columns(self) -> Table:
        """Leave out the columns in which nothing is known."""
        kept = [i for i in range(len(self.head)) if i < self.text_columns or any(row[i] != MISSING for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        return Table(self.title, [self.head[i] for i in kept], rows, self.text_columns, self.note)


@dataclass(frozen=True)
class Card:
    """One key figure at the head of a page."""

    label: str
    value: str
    hint: str = ""


@dataclass(frozen=True)
class Failure:
    """One client that failed in one round: the last line of its error, and all of it."""

    round: int
    client: int
    summary: str
    error: str


@dataclass(frozen=True)
class Image:
    """A PNG of a page and what it shows."""

    caption: str
    uri: str

    @classmethod
    def of(cls, caption: str, path: Path) -> Image:
        """Take the file into the page."""
        return cls(caption, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode())


@dataclass(frozen=True)
class Page:
    """What page.html renders; sections without content do not appear."""

    title: str
    subtitle: str
    status: str = ""
    reason: str = ""
    cards: Sequence[Card] = ()
    pictures: Sequence[Picture] = ()
    images: Sequence[Image] = ()
    tables: Sequence[Table] = ()
    failures: Sequence[Failure] = ()
    failures_left_out: int = 0
    spec: str = ""
    versions: str = ""

    def write(self, path: Path) -> Path:
        """Write the page to `path` and return it."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        html = environment.get_template("page.html").render(page=self)
        path.write_text(html, encoding="utf-8", newline="\n")
        return path


def run_cards(record: Record) -> list[Card]:
    """Return the key figures of one run that are known."""
    figures, spec = standing(record), record["spec"]
    value = {key: KEY_FIGURES[key](figures.get(key)) for key in KEY_FIGURES}
    up, dense = figures.get("bytes_up"), figures.get("bytes_up_dense")
    federation = spec.get("federation", {})
    cards = [
        Card("accuracy", value["accuracy_mean"], f"± {value['accuracy_std']} over clients"),
        Card("worst client", value["accuracy_worst"], f"10th percentile {value['accuracy_p10']}"),
        Card("majority class", value["majority_class"], "the baseline to beat"),
        Card(
            "recalls at 1, 5, 10, added",
            value["retrieval_sum_1_5_10_last3"],
            f"by chance {value['retrieval_chance']}, gallery {value['retrieval_gallery']}",
        ),
        Card("uploaded", value["bytes_up"], f"{dense / up:.3g}× less than dense" if up and dense and dense != up else "dense"),
        Card("downloaded", value["bytes_down"]),
        Card("privacy, ε", value["epsilon"], f"δ = {spec.get('privacy', {}).get('delta', 'unknown')}"),
        Card("simulated time", value["sim_s"], "on the devices"),
        Card("simulated energy", value["energy_j"], "on the devices"),
        Card("wall-clock time", value["wall_s"], "of this simulation"),
        Card("rounds", value["rounds"], f"of {federation['rounds']} planned" if "rounds" in federation else ""),
    ]
    return [card for card in cards if card.value != MISSING]


def final_table(record: Record) -> Table:
    """Return every final figure, rounded for people and exactly as recorded; strategies' own ones last."""
    rows = []
    order = [*KEY_FIGURES, *figures_of_types(record)]
    for key, value in sorted(standing(record).items(), key=lambda item: [*order, item[0]].index(item[0])):
        known = key_figure(key) if key in order else None
        exact = MISSING if value is None else json.dumps(value)
        rows.append((known.label if known else key, key, known.unit if known else "", known(value) if known else exact, exact))
    title = "Final figures" if record["status"] in ENDED_WELL else "Figures so far"
    return Table(title, ("figure", "key", "unit", "value", "as recorded"), rows, text_columns=3)


def memory_table(record: Record) -> Table:
    """Return how much longer each device computed because part of its memory is slow."""
    by_device: dict[str, list[float]] = {}
    for entry in record["rounds"]:
        for device, factor in entry.get("memory_slowdown", {}).items():
            by_device.setdefault(device, []).append(factor)
    rows = [
        (device, str(len(factors)), f"{sum(factors) / len(factors):.3f}", f"{max(factors):.3f}")
        for device, factors in sorted(by_device.items())
    ]
    head = ("device", "rounds", "slow-down, mean", "largest of a round")
    return Table("Memory in two tiers", head, rows, note="Computing time over that with fast memory alone.")


def run_failures(record: Record) -> list[Failure]:
    """Return all failures of clients in the order they happened."""
    return [
        Failure(entry["round"], failed["client"], (failed["error"].strip().splitlines() or ["unknown"])[-1], failed["error"])
        for entry in record["rounds"]
        for failed in entry["failed"]
    ]


def spec_toml(spec: Mapping[str, Any]) -> str:
    """Return a spec as TOML, without the fields that are None."""

    def known(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: known(item) for key, item in value.items() if item is not None}
        return [known(item) for item in value if item is not None] if isinstance(value, list) else value

    return tomli_w.dumps(known(spec))


IMAGES = {
    "samples.png": "Synthetic images: one row a client, one column a class",
    "retrieval.png": "Retrieval: the image that is asked for, and those found first; the right one is framed",
    "space.png": "The shared space on its principal axes: a line joins the two views of a sample",
}


def run_images(run_dir: Path) -> list[Image]:
    """Return the pictures that the run left in its directory."""
    return [Image.of(caption, run_dir / name) for name, caption in IMAGES.items() if (run_dir / name).exists()]


def device_pictures(run_dir: Path) -> list[Picture]:
    """Return the roofline of each simulated device, with the operators of the work that took it longest a step."""
    slowest: dict[str, RooflineReport] = {}
    for path in sorted((run_dir / "hwsim").glob("roofline-*.json")):
        report = RooflineReport.model_validate_json(path.read_text(encoding="utf-8"))
        if report.device not in slowest or report.time_s > slowest[report.device].time_s:
            slowest[report.device] = report
    reports = [slowest[device] for device in sorted(slowest)]
    caption = "Clients' devices under their rooflines: one training step, the area of a point is its share of the time"
    return [picture(caption, lambda figure: draw_chart(figure, reports), height_in=4.2, wide=True)] if reports else []


def memory_pictures(run_dir: Path) -> list[Picture]:
    """Return how memory in two tiers went with the work that it slows down most."""
    paths = sorted((run_dir / "hwsim").glob("neomem-*.json"))
    if not paths:
        return []
    from ...hwsim.neomem.figures import draw_chart  # its package compiles kernels
    from ...hwsim.neomem.report import NeoMemReport

    reports = [NeoMemReport.model_validate_json(path.read_text(encoding="utf-8")) for path in paths]
    slowest = max(reports, key=lambda report: report.slowdown_vs_all_fast)
    caption = f"Memory in two tiers: the training that it slows down most, {slowest.slowdown_vs_all_fast:.3g} times"
    return [picture(caption, lambda figure: draw_chart(figure, slowest), height_in=4.2, wide=True)]


def run_page(
    record: Record, images: Sequence[Image] = (), simulated: Sequence[Picture] = (), failures_shown: int = 200
) -> Page:
    """Return the report of one run, ready to write."""
    failures = run_failures(record)
    started, ended = (record[key] or MISSING for key in ("started", "ended"))
    when = f"started {started} · ended {ended}".replace("T", " ").replace("+00:00", " UTC")
    return Page(
        title=record["name"],
        subtitle=f"{record['id']} · {when}",
        status=record["status"],
        reason=record["reason"] or "",
        cards=run_cards(record),
        pictures=[*run_pictures(record), *simulated],
        images=images,
        tables=[table for table in (final_table(record), memory_table(record)) if table.rows],
        failures=failures[:failures_shown],
        failures_left_out=max(0, len(failures) - failures_shown),
        spec=spec_toml(record["spec"]),
        versions=" · ".join(f"{name} {version}" for name, version in sorted(record["versions"].items())),
    )


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    Raises
    ------
    RunError
        If there is no record to report on.
    """
    folder = Path(run_dir)
    simulated = [*device_pictures(folder), *memory_pictures(folder)]
    return run_page(load_record(folder), run_images(folder), simulated).write(folder / "report.html")

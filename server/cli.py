"""The command line. With --json, stdout is one JSON document and nothing else; progress goes to stderr.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted (with a checkpoint to resume from).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..core.errors import FedcosimError, RunError, SpecError
from .cli_hwsim import app as hwsim
from .cli_reliability import reliability
from .cli_service import add_to, resume_there

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.splitlines()[0])
app.add_typer(hwsim, name="hwsim")
add_to(app)
app.command()(reliability)
data = typer.Typer(no_args_is_help=True, help="Data sets on this computer.")
app.add_typer(data, name="data")

Set = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a field of the spec; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
Runs = Annotated[Path, typer.Option("--out", help="Folder in which run directories are made.")]

PIPE_WIDTH = 160  # a pipe has no width of its own; tables must not lose columns in it
stderr = Console(stderr=True)
stdout = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="The experiment, a TOML file.")],
    overrides: Set = None,
    out: Runs = Path("runs"),
    run_id: Annotated[str | None, typer.Option("--id", help="The run's id; made up when absent.")] = None,
    as_json: Json = False,
) -> None:
    """Run an experiment: train, evaluate, record, report."""
    from . import run as runner
    from .display import display
    from .spec import load

    experiment = load(spec, overrides or ())
    folder = runner.run(experiment, out, run_id, [display(experiment, stderr)])
    _show(folder, as_json)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="A run's directory or id.")],
    overrides: Set = None,
    server: Annotated[str | None, typer.Option("--server", help="Address of the service that has it.")] = None,
    as_json: Json = False,
) -> None:
    """Go on with an interrupted or failed run, or with a finished one for more rounds."""
    if server is not None:
        queued = resume_there(str(run), overrides or [], server)
        print_json(queued) if as_json else stdout.print(f"{run}: {queued['status']}", highlight=False)
        return
    from . import run as runner
    from .display import display
    from .record import find_run

    folder = find_run(run)
    experiment = runner.resumable(folder, overrides or ())
    runner.resume(folder, experiment, [display(experiment, stderr)])
    _show(folder, as_json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories or ids.")],
    out: Annotated[Path, typer.Option("--html", help="Where the comparison with its curves goes.")] = Path("comparison.html"),
    as_json: Json = False,
) -> None:
    """Set runs side by side: final figures, paired differences over seeds, accuracy against bytes."""
    from .record import find_run
    from .report import comparison, print_comparison, write_comparison

    folders = [find_run(run) for run in runs]
    result = comparison(folders)
    path = write_comparison(folders, out)
    if as_json:
        print_json(result.as_dict() | {"html": str(path)})
    else:
        print_comparison(result, stdout)
        stdout.print(f"Curves: {path}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run's directory or id.")]) -> None:
    """Write a run's report.html again."""
    from .record import find_run
    from .report import write_report

    stdout.print(str(write_report(find_run(run))), soft_wrap=True)


@app.command()
def audit(run: Annotated[Path, typer.Argument(help="A run's directory or id.")], as_json: Json = False) -> None:
    """Judge the synthetic data of a finished run against the real data: labels, realism, memorisation, membership."""
    from .audit import write_audit
    from .record import find_run

    folder = find_run(run)
    judged = write_audit(folder)
    if as_json:
        print_json(judged)
    else:
        stdout.print(figures(f"Audit of {folder.name}", judged))


@app.command()
def compress(
    model: Annotated[Path, typer.Option(help="A .safetensors file, or a folder of transformers.")],
    codec: Annotated[list[str], typer.Option(help="A codec, as NAME or NAME:FIELD=VALUE,...; repeat to chain codecs.")],
    gguf: Annotated[str | None, typer.Option(help="The GGUF file in that folder to read.")] = None,
    text: Annotated[Path | None, typer.Option(help="To calibrate on, for codecs that do (language models).")] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows of the text to calibrate on.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="For codecs that draw random numbers.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Where the model goes as a receiver would have it (.safetensors).")] = None,
    as_json: Json = False,
) -> None:
    """Compress a checkpoint as an upload would be; report bytes and error, tensor by tensor."""
    from ..compression import parse
    from ..compression.checkpoint import compress_checkpoint

    options = parse({"codec": [_codec(one) for one in codec], "target": "weights"}, "--codec")
    calibration = _text(text) if text else None
    sizes = {"count": windows, "length": length}
    report = compress_checkpoint(model, options, gguf_file=gguf, text=calibration, seed=seed, out=out, **sizes)
    if as_json:
        print_json(report.as_dict())
        return
    table = Table(
        "tensor", "how", "dense bytes", "encoded bytes", "error", "note", title=f"{model}: {' > '.join(report.codec)}"
    )
    for tensor in report.tensors:
        sizes_and_error = f"{tensor.dense_bytes}", f"{tensor.encoded_bytes}", f"{tensor.error:.4f}"
        table.add_row(tensor.name, tensor.how, *sizes_and_error, tensor.note)
    stdout.print(table)
    summary = f"{report.dense_bytes} -> {report.encoded_bytes} bytes ({report.ratio:.3f}), error {report.error:.4f}"
    stdout.print(f"{summary}, {report.encode_s:.1f} s", highlight=False)


def _codec(text: str) -> dict[str, Any]:
    """Read NAME:FIELD=VALUE,... as a table of a spec."""
    from .spec import toml_value

    name, _, fields = text.partition(":")
    table: dict[str, Any] = {"codec": name}
    for field in filter(None, fields.split(",")):
        key, equals, value = field.partition("=")
        if not equals:
            raise SpecError(f"--codec {text!r}: {field!r} must look like FIELD=VALUE")
        table[key.strip()] = toml_value(value.strip())
    return table


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"--text {path}: cannot be read ({error}); give a text file in UTF-8") from None


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="strategies, models, data, codecs or devices.")], as_json: Json = False
) -> None:
    """List what a spec can name, with its options."""
    from .catalogue import CATALOGUE, catalogue

    if kind not in CATALOGUE:
        raise RunError(f"list {kind!r}: unknown kind; choose one of {', '.join(CATALOGUE)}")
    entries = catalogue(kind)
    if as_json:
        print_json(entries)
        return
    table = Table("name", "what", "options")
    for entry in entries:
        fields = [f"{name} = {field['default']!r}" if "default" in field else name for name, field in entry["options"].items()]
        table.add_row(*map(Text, (entry["name"], entry["summary"], ", ".join(fields))))
    stdout.print(table)


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="emoji, wordnet, cifar10, mnist or fashion-mnist.")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder in which the set's folder is made; $FEDCOSIM_DATA.")] = None,
) -> None:
    """Download a data set with this computer's npm or apt-get, check it, and put it where experiments look for it."""
    from ..clients.data import fetch as fetching

    stdout.print(str(fetching.fetch(name, to)), soft_wrap=True)


def _show(folder: Path, as_json: bool) -> None:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if as_json:
        print_json(result)
        return
    title = f"{result['id']}: {result['status']}" + (f" ({result['reason']})" if result["reason"] else "")
    stdout.print(figures(title, result["final"]))
    stdout.print(f"Report: {folder / 'report.html'}", soft_wrap=True)


def figures(title: str, values: Mapping[str, Any]) -> Table:
    """Lay out those figures that are single numbers."""
    table = Table(title=title)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in values.items():
        if isinstance(value, (int, float)):
            table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    return table


def print_json(document: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Run the command line; errors of ours become sentences on stderr and an exit code."""
    try:
        app()
    except FedcosimError as error:
        stderr.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        resumable = sys.argv[1:2] in (["run"], ["resume"])
        stderr.print("interrupted; go on with `fedcosim resume`" if resumable else "interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()

"""From source text to netlists: Yosys reads, ABC optimises and maps, both in child processes with limits.

The flow is fixed, so that gate counts and depths compare: Yosys flattens and turns everything into AND gates and inverters,
ABC runs `SCRIPT` (its resyn2), and with a Liberty library maps for delay and reports area and the critical path's delay by its
own static timing.

Source may come from strangers. A child sees a folder with nothing but its input, has limits on time, memory and file size, and
is killed with all it started. What the text itself could do, `uploads` refuses before it comes here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ....core.errors import DataError
from ....core.options import Options
from .extra import extra
from .lowering import graphs
from .netlist import Netlist, from_aig

if TYPE_CHECKING:
    from aigverse.networks import Aig

SCRIPT = "strash; balance; rewrite; refactor; balance; rewrite; rewrite -z; balance; refactor -z; rewrite -z; balance"
"""What ABC's alias `resyn2` stands for."""
LIBRARY = "read_lib -w cells.lib"
FILE_MB = 32
"""Size at most of what Yosys or ABC writes (our choice)."""
OSU018 = "/usr/share/qflow/tech/osu018/osu018_stdcells.lib"
Format = Literal["verilog", "blif", "aiger"]
_READ = {
    "verilog": "read_verilog source.verilog",
    "blif": "read_blif source.blif",
    "aiger": "read_aiger -module_name top source.aiger",
}
_LAUNCH = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for command in sys.argv[1:]:
    libyosys.run_pass(command, design)
"""
_FLOW = ("proc", "flatten", "opt_clean -purge", "techmap", "opt_expr", "aigmap", "opt_clean -purge", "write_json netlist.json")
_COLOUR = r"\x1b\[[\d;]*m"
_MEGABYTE = 2**20


class SynthesisOptions(Options):
    """How source text becomes netlists."""

    liberty: Path | None = None
    """Standard cells to map to, a Liberty file; absent: no area and no delay."""
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120
    """Wall-clock limit of each run of Yosys or ABC."""
    memory_mb: Annotated[int, Field(ge=256)] = 4096
    """Address space of each run of Yosys or ABC."""


@dataclass(frozen=True)
class Synthesised:
    """An optimised netlist and, where a library was given, its mapped area (in the library's unit) and delay."""

    netlist: Netlist
    area: float | None
    delay_ps: float | None


def read(source: bytes, form: Format, options: SynthesisOptions) -> dict[str, Aig]:
    """Read one design, and return an AND-inverter graph of each output of its top module.

    Returns
    -------
    dict
        Output bit (``y``, or ``y[2]`` of a vector) to its graph, which has all inputs, in the order of declaration, lowest
        bit first.

    Raises
    ------
    DataError
        If the source cannot be read, or is not a combinational circuit: the message names loops, undriven and multiply
        driven nets, and registers.
    """
    top = ("hierarchy -check -auto-top",) if form == "verilog" else ()
    with _folder() as folder:
        (folder / f"source.{form}").write_bytes(source)
        modules = _yosys([_READ[form], *top], folder, options)
    if len(modules) != 1:
        raise DataError(f"netlist: {len(modules)} top modules; the source must have one")
    ((name, module),) = modules.items()
    return graphs(module, name)


def read_modules(texts: Sequence[str], options: SynthesisOptions) -> list[Aig]:
    """Return the graphs of many Verilog modules `m` with one output each, in order, by one run of Yosys."""
    source = "\n".join(text.replace("module m", f"module m{i}", 1) for i, text in enumerate(texts))
    with _folder() as folder:
        (folder / "source.verilog").write_text(source)
        modules = _yosys([_READ["verilog"]], folder, options)
    return [next(iter(graphs(modules[f"m{i}"], f"m{i}").values())) for i in range(len(texts))]


def optimise(aigs: Mapping[str, Aig], options: SynthesisOptions) -> dict[str, Synthesised]:
    """Optimise graphs of one output by ABC, and map them where there is a library.

    Raises
    ------
    DataError
        If an output is constant, the library cannot be read, or a limit was exceeded.
    """
    files = extra("aigverse.io")
    with _folder() as folder:
        commands = [] if options.liberty is None else [_library(options.liberty, folder, options)]
        for i, aig in enumerate(aigs.values()):
            files.write_aiger(aig, folder / f"{i}.aig")
            commands.append(f"read_aiger {i}.aig; {SCRIPT}; write_aiger {i}.out")
            if options.liberty is not None:
                commands.append("map; topo; stime")
        log = _abc(commands, folder, options, wanted=f"{len(aigs) - 1}.out")
        netlists = [from_aig(files.read_aiger_into_aig(folder / f"{i}.out"), name) for i, name in enumerate(aigs)]
    if options.liberty is None:
        return {name: Synthesised(netlist, None, None) for name, netlist in zip(aigs, netlists, strict=True)}
    mapped = re.findall(r"Area\s*=\s*([\d.]+).*?Delay\s*=\s*([\d.]+) ps", re.sub(_COLOUR, "", log))
    if len(mapped) != len(aigs):
        raise DataError(f"circuits.liberty = '{options.liberty}': ABC cannot map to these cells: {_complaint(log)}")
    return {
        name: Synthesised(netlist, float(area), float(delay_ps))
        for name, netlist, (area, delay_ps) in zip(aigs, netlists, mapped, strict=True)
    }


def cells(liberty: Path) -> bytes:
    """Return a Liberty file.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        return liberty.read_bytes()
    except OSError as error:
        raise DataError(
            f"circuits.liberty = '{liberty}': cannot be read ({error.strerror}); give a Liberty file, such as {OSU018} "
            "of Debian's package qflow-tech-osu018"
        ) from None


def _yosys(commands: Sequence[str], folder: Path, options: SynthesisOptions) -> dict[str, Any]:
    """Return the modules that the commands read, as gates."""
    extra("pyosys")
    _run([sys.executable, "-c", _LAUNCH, *commands, *_FLOW], folder, options)
    try:
        return json.loads((folder / "netlist.json").read_text())["modules"]
    except json.JSONDecodeError:  # Yosys stops writing at the limit, and says nothing
        raise DataError(f"netlist: more than {FILE_MB} MB of gates; choose a smaller circuit") from None


def _library(liberty: Path, folder: Path, options: SynthesisOptions) -> str:
    """Copy a library into the folder, see that ABC can read it, and return the command that does."""
    (folder / "cells.lib").write_bytes(cells(liberty))
    try:
        _abc([LIBRARY, "write_genlib cells.genlib"], folder, options, wanted="cells.genlib")
    except DataError as error:
        raise DataError(f"circuits.liberty = '{liberty}': ABC cannot read these cells: {error}") from None
    return LIBRARY


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fedcosim-synthesis-") as folder:
        yield Path(folder)


def _abc(commands: Sequence[str], folder: Path, options: SynthesisOptions, wanted: str) -> str:
    """Run ABC, which exits with 0 whatever happens: it has failed if it did not write the `wanted` file."""
    (folder / "script.abc").write_text("\n".join(commands) + "\n")
    log = _run([str(Path(extra("pyosys").__file__).parent / "yosys-abc"), "-f", "script.abc"], folder, options)
    if not (folder / wanted).exists():
        raise DataError(f"netlist: ABC cannot read it: {_complaint(log)}")
    return log


def _run(command: list[str], folder: Path, options: SynthesisOptions) -> str:
    """Run a command in a folder under the limits; return what it printed.

    Raises
    ------
    DataError
        If it fails, or exceeds a limit; it is killed with its children.
    """
    if shutil.which("prlimit") is None:
        raise DataError("circuits: the program prlimit is missing; install util-linux")
    limits = [f"--as={options.memory_mb * _MEGABYTE}", f"--fsize={FILE_MB * _MEGABYTE}"]
    log_path = folder / "log.txt"
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            ["prlimit", *limits, *command], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        ) as child,
    ):
        try:
            child.wait(options.timeout_s)
        except subprocess.TimeoutExpired:
            raise DataError(
                f"circuits.timeout_s = {options.timeout_s:g}: synthesis took longer; choose more, or a smaller circuit"
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    text = log_path.read_text(errors="replace")
    if child.returncode < 0:  # a signal: what it printed last need not be the reason
        raise DataError(
            f"netlist: the synthesiser crashed (signal {-child.returncode}); perhaps circuits.memory_mb = {options.memory_mb} "
            "is too little"
        )
    if child.returncode != 0:
        raise DataError(f"netlist: cannot be synthesised: {_complaint(text)}")
    return text


def _complaint(log: str) -> str:
    """Return the line that says what is wrong, without colours and the names of temporary files."""
    lines = [re.sub(_COLOUR, "", line).strip() for line in log.splitlines()]
    wrong = [line for line in lines if re.search(r"error|syntax|cannot|wrong|fail|missing|not |invalid", line, re.IGNORECASE)]
    errors = [line for line in wrong if "ERROR" in line] or wrong
    return re.sub(r"source\.(verilog|blif|aiger)", "source", errors[0]).replace("\\", "") if errors else ""

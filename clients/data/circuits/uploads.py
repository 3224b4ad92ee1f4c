"""Circuits from files of strangers: one for each output of a design, with all labels.

A file is refused for what it is called, for what it could make the synthesiser do, and for what is in it (`lowering`). The
synthesiser then runs with limits (`synthesis`).
"""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import PurePosixPath

import numpy as np

from ....core.errors import DataError
from ....core.seeds import numpy_stream
from . import bench, functions, netlist, synthesis
from .circuits import UPLOADED, Circuits, Sample, stack
from .families import OPERATIONS
from .generate import CircuitsOptions
from .netlist import Netlist
from .synthesis import Format, Synthesised

FORMATS: dict[str, Format] = {".v": "verilog", ".blif": "blif", ".bench": "blif", ".aag": "aiger", ".aig": "aiger"}
"""How files are read, by the end of their names."""
SIZE_BYTES = 2**20
PATTERNS = 15_000
"""Random patterns for circuits of more than `max_inputs` inputs (DeepGate2, arXiv:2305.16373)."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_DIRECTIVES = ("timescale", "default_nettype", "resetall", "celldefine", "endcelldefine")
_SYSTEM = ("signed", "unsigned", "clog2")


def uploaded(name: str, source: bytes, options: CircuitsOptions, seed: int) -> Circuits:
    """Read a design in Verilog, BLIF, .bench or AIGER, and return a circuit for each output of its top module.

    An output that depends on more than `options.max_inputs` inputs is simulated with `PATTERNS` random patterns, and marked:
    `exact_N` is False, and `keys_N` depends on its structure, not on its function. Inputs that an output does not need are
    left out. There is no RTL view.

    Parameters
    ----------
    name : str
        What the file is called, without a folder; its end says the format.
    source : bytes
    options : CircuitsOptions
        Limits and library; `samples` are not used.
    seed : int
        Of the random patterns.

    Raises
    ------
    DataError
        If the name, the text or the circuit is not allowed, or synthesis fails or exceeds its limits.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if not _NAME.fullmatch(name) or suffix not in FORMATS:
        raise DataError(
            f"upload {name[:60]!r}: not a file name that is taken; use letters, digits, '_', '-' and '.', no folder, and "
            f"one of the ends {', '.join(FORMATS)}"
        )
    if not 0 < len(source) <= SIZE_BYTES:
        raise DataError(f"upload {name!r}: {len(source)} bytes; choose 1 to {SIZE_BYTES}")
    aigs = synthesis.read(_checked(name, suffix, source), FORMATS[suffix], options)
    made = synthesis.optimise(aigs, options)
    samples = [_sample(output, one, options, seed) for output, one in made.items()]
    return stack(samples, options.max_tokens, options.max_nodes)


def _checked(name: str, suffix: str, source: bytes) -> bytes:
    """Return what the synthesiser is given."""
    if FORMATS[suffix] == "aiger":
        if not re.match(rb"a[ai]g( \d{1,7}){5}\r?\n", source):
            raise DataError(f"upload {name!r}: its header must be 'aag' or 'aig' and five numbers below 10000000 (AIGER)")
        return source
    try:
        text = source.decode()
    except UnicodeDecodeError:
        raise DataError(f"upload {name!r}: not text; only AIGER may be binary") from None
    if suffix == ".v":
        _check_verilog(name, text)
    return (bench.to_blif(text) if suffix == ".bench" else text).encode()


def _check_verilog(name: str, text: str) -> None:
    """Refuse what lets Verilog read files, run programs or build directives out of pieces.

    Comments and strings are searched as well, so that nothing depends on seeing their ends where Yosys does.
    """
    for number, line in enumerate(text.splitlines(), 1):
        words = [f"`{word}" for word in re.findall(r"`(\w*)", line) if word not in _DIRECTIVES]
        words += [f"${word}" for word in re.findall(r"\$([a-zA-Z_]\w*)", line) if word not in _SYSTEM]
        words += re.findall(r'"DPI', line)
        if words:
            raise DataError(
                f"upload {name!r}: {words[0]} in line {number}; of directives only {', '.join(_DIRECTIVES)}, and of system "
                f"functions only {', '.join(_SYSTEM)} are allowed, in comments and strings too"
            )


def _sample(output: str, made: Synthesised, options: CircuitsOptions, seed: int) -> Sample:
    circuit = _needed(made.netlist)
    nodes = circuit.inputs + len(circuit.fanins_A2) + 1
    if nodes > options.max_nodes:  # before simulating it
        raise DataError(f"{output}: {nodes} nodes; circuits.max_nodes = {options.max_nodes} are allowed")
    exact = circuit.inputs <= options.max_inputs
    random = numpy_stream(seed, "circuits", "patterns")
    patterns_IP = netlist.exhaustive(circuit.inputs) if exact else random.random((circuit.inputs, PATTERNS)) < 0.5
    truth_P = np.resize(netlist.response(circuit, netlist.simulate(circuit, patterns_IP)), 2**options.max_inputs)
    key = functions.key(truth_P.astype(np.uint8)) if exact else _structure(circuit)
    made = Synthesised(circuit, made.area, made.delay_ps)
    return Sample(UPLOADED, OPERATIONS.index("logic"), key, truth_P, np.empty(0, dtype=np.int16), made, patterns_IP, exact)


def _needed(circuit: Netlist) -> Netlist:
    """Return the netlist without the inputs that nothing reads."""
    read = np.unique(np.append(circuit.fanins_A2, circuit.output) // 2)
    kept = np.append(read[read < circuit.inputs], circuit.inputs + np.arange(len(circuit.fanins_A2)))
    place = np.zeros(circuit.inputs + len(circuit.fanins_A2), dtype=np.int32)
    place[kept] = np.arange(len(kept))
    fanins_A2 = 2 * place[circuit.fanins_A2 // 2] + circuit.fanins_A2 % 2
    return Netlist(len(kept) - len(circuit.fanins_A2), fanins_A2, int(2 * place[circuit.output // 2] + circuit.output % 2))


def _structure(circuit: Netlist) -> int:
    code = np.array([circuit.inputs, circuit.output, *circuit.fanins_A2.reshape(-1)], dtype=np.int64)
    return int.from_bytes(blake2b(code.tobytes(), digest_size=8).digest(), "little") >> 1

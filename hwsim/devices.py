"""Devices by name: what their makers say, what follows from that, and what was measured here.

Figures are in `devices.toml` beside this file, each with its kind and source. A file of your own, in the same form, adds
devices: the one that $FEDCOSIM_DEVICES names, else `~/.config/fedcosim/devices.toml`, where `calibrate` puts this machine.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.options import Options, choose, sentences
from .simulator import HwsimError

Positive = Annotated[float, Field(ge=1e-6, lt=1e21)]
Share = Annotated[float, Field(ge=1e-6, le=1)]


class Peak(Options):
    """Dense peak rates, operations a second; a multiply-add is two. None: the device has no such units, or nobody says."""

    fp32: Positive | None = None
    fp16: Positive | None = None
    bf16: Positive | None = None
    int8: Positive | None = None
    int4: Positive | None = None


class Efficiency(Options):
    """How much of its peaks a device reaches; all at their best unless measured."""

    compute: Share = 1.0
    """Share of the peak rate in large matrix products."""
    memory: Share = 1.0
    """Share of the memory's bandwidth in long copies."""
    overhead_s: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Seconds that every operator takes beside its work."""


class Device(Options):
    """What the roofline model needs to know of a device."""

    summary: str = ""
    """In words."""
    peak: Peak
    memory_bytes_per_s: Positive
    """Bandwidth between processor and main memory."""
    memory_bytes: Annotated[int, Field(gt=0, lt=2**53)] | None = None
    """Capacity of main memory; None: not limited."""
    memory_kind: Literal["ddr", "lpddr", "hbm2", "gddr6"] = "ddr"
    """Decides what a byte costs in energy."""
    buffer_bytes: Annotated[int, Field(gt=0, lt=2**53)] | None = None
    """On-chip memory that fused attention can use."""
    link_bytes_per_s: Positive | None = None
    """Bandwidth to each of its peers under tensor parallelism."""
    max_power_w: Positive | None = None
    """What it draws at most."""
    idle_power_w: Annotated[float, Field(ge=0, lt=1e6)] | None = None
    """What it draws doing nothing."""
    efficiency: Efficiency = Efficiency()


class Quantity(BaseModel):
    """A figure with its origin, as device files have it."""

    model_config = ConfigDict(extra="forbid")

    value: float | int
    kind: Literal["datasheet", "derived", "unconfirmed", "measured", "simulator"]
    source: str


def device(name: str) -> Device:
    """Return the device of that name.

    Raises
    ------
    HwsimError
        NOT_FOUND, with the names there are.
    """
    known = devices()
    if name not in known:
        raise HwsimError(f"device = {name!r}: {choose(name, known)}", "NOT_FOUND", "device")
    return known[name]


def devices() -> dict[str, Device]:
    """Return all devices by name, your own last."""
    own = own_file()
    return _read(Path(__file__).with_name("devices.toml")) | (_read(own) if own.exists() else {})


def own_file() -> Path:
    """Return the file of your own devices, which need not exist."""
    return Path(os.environ.get("FEDCOSIM_DEVICES", Path.home() / ".config" / "fedcosim" / "devices.toml"))


def _read(path: Path) -> dict[str, Device]:
    return _parsed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _parsed(path: Path, _changed: int) -> dict[str, Device]:
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: Device.model_validate(_values(entry)) for name, entry in entries.items()}
    except tomllib.TOMLDecodeError as error:
        raise HwsimError(f"{path}: not valid TOML: {error}", "FAILED_PRECONDITION", "device") from None
    except ValidationError as error:
        problem = sentences(error, Device)[0]
        raise HwsimError(f"{path}: {problem}", "FAILED_PRECONDITION", "device") from None


def _values(entry: Any) -> Any:
    """Leave origins out: figures become numbers."""
    if isinstance(entry, Mapping):
        return Quantity.model_validate(entry).value if "value" in entry else {k: _values(v) for k, v in entry.items()}
    return entry

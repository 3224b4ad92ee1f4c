"""What a spec can name: strategies, models, data sources, codecs, devices, with their options as JSON Schema properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..clients.data import MULTIMODAL, SOURCES, DataOptions
from ..clients.data.options import fields_of
from ..clients.data.source import source
from ..clients.models import MODELS
from ..compression import CODECS
from ..core.options import Options, Registry
from ..hwsim.devices import devices
from ..strategies import STRATEGIES

Entry = dict[str, Any]


def _registered(registry: Registry[Any]) -> list[Entry]:
    return [_entry(name, registry.options(name)) for name in registry.names()]


def _entry(name: str, options: type[Options]) -> Entry:
    properties = {
        key: value for key, value in options.model_json_schema().get("properties", {}).items() if key not in ("name", "codec")
    }
    return {"name": name, "summary": (options.__doc__ or "").strip().splitlines()[0], "options": properties}


def _sources() -> list[Entry]:
    summaries = {name: (source(name).__doc__ or "").splitlines()[0] for name in SOURCES}
    options = _entry("data", DataOptions)["options"]
    return [
        {"name": name, "summary": summary, "options": {key: options[key] for key in fields_of(name)}}
        for name, summary in summaries.items()
    ] + [
        {"name": entry["name"], "summary": entry["summary"], "options": _without(entry["options"], MULTIMODAL.key)}
        for entry in _registered(MULTIMODAL)
    ]


def _without(options: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != key}


def _devices() -> list[Entry]:
    shown = ("peak", "memory_bytes_per_s", "memory_bytes", "max_power_w")
    return [
        {
            "name": name,
            "summary": device.summary,
            "options": {key: {"default": value} for key, value in device.model_dump(exclude_none=True).items() if key in shown},
        }
        for name, device in devices().items()
    ]


CATALOGUE: dict[str, Callable[[], list[Entry]]] = {
    "strategies": lambda: _registered(STRATEGIES),
    "models": lambda: _registered(MODELS),
    "data": _sources,
    "codecs": lambda: _registered(CODECS),
    "devices": _devices,
}


def catalogue(kind: str) -> list[Entry]:
    """Return all entries of one kind: name, one-line summary, options."""
    return CATALOGUE[kind]()

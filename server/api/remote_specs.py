"""What a spec that comes over the network may say: nothing that names this computer's files or other hosts."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from ...core.errors import SpecError
from ..spec import Experiment, parse

FORBIDDEN = {
    "data.circuits.liberty": "a file of the server",
    "data.path": "files of the server; put data sets into its $FEDCOSIM_DATA",
    "engine.state": "another host, or files of the server",
    "hardware.trace": "a file of the server",
    "hardware.root_ca": "a file of the server",
    "hardware.endpoint": "another host, to which the server's token would be sent",
    "tracking.mlflow": "another host, or files of the server",
    "tracking.wandb": "another host, which the server would log in at",
}


def read_spec(body: bytes, content_type: str) -> Experiment:
    """Validate a spec that came as JSON or as TOML; it will run on the service's own Ray cluster.

    Raises
    ------
    SpecError
        If it is not JSON or TOML, not a valid experiment, or names what it may not.
    """
    if "toml" in content_type:
        try:
            fields = tomllib.loads(body.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"body: not valid TOML: {error}") from None
    else:
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"body: not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise SpecError("body: must be an object with the fields of an experiment")
    return remote(fields)


def remote(fields: Mapping[str, Any]) -> Experiment:
    """Validate a spec's fields; see `read_spec`."""
    problems = []
    for dotted, what in FORBIDDEN.items():
        value: Any = fields
        for name in dotted.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            problems.append(f"{dotted} = {value!r}: names {what}; not allowed in an experiment that comes over the network")
    if problems:
        raise SpecError(problems)
    engine = fields.get("engine", {})
    here = {**engine, "address": "auto"} if isinstance(engine, Mapping) else engine
    return parse({**fields, "engine": here})

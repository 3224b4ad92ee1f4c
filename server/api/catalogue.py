"""Routes of what specs can name, and of the hardware simulators."""

from __future__ import annotations

import os
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Body

from ...core.options import validate
from ...hwsim.client import ENDPOINT, TOKEN, connect
from ...hwsim.simulators import SIMULATORS, load
from ..architectures import example
from ..architectures import names as model_names
from ..catalogue import CATALOGUE
from ..catalogue import catalogue as entries
from ..spec import Experiment
from .auth import Runner, Viewer

router = APIRouter(tags=["catalogue"])
Kind = Enum("Kind", {name: name for name in CATALOGUE})  # type: ignore[misc]
Simulator = Enum("Simulator", {name: name for name in SIMULATORS})  # type: ignore[misc]


@router.get("/catalogue/{kind}")
def catalogue(_: Viewer, kind: Kind) -> list[dict[str, Any]]:
    """List what a spec can name, with the options of each as JSON Schema properties."""
    return entries(kind.value)


@router.get("/schema")
def schema(_: Viewer) -> dict[str, Any]:
    """Return the JSON Schema of a spec; the fields of components are those of the catalogue."""
    return Experiment.model_json_schema()


@router.post("/hwsim/{simulator}", tags=["hwsim"])
def estimate(
    _: Runner,
    simulator: Simulator,
    fields: Annotated[dict[str, Any], Body(examples=[{"device": "raspberry-pi-5", "model": {"name": "lenet"}}])],
) -> dict[str, Any]:
    """Ask a hardware simulator what some work costs; fields are those of its request."""
    request = validate(load(simulator.value).Request, fields)
    resources: dict[str, Any] = {"models": example, "model_names": model_names()}
    client = connect(os.environ.get(ENDPOINT), os.environ.get(TOKEN), **resources)
    return client.estimate(simulator.value, request).as_dict()

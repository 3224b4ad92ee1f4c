"""Routes of what specs can name, and of the hardware simulators."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from ...core.options import validate
from ...hwsim.simulators import SIMULATORS, load
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
    request: Request,
    simulator: Simulator,
    fields: Annotated[dict[str, Any], Body(examples=[{"device": "raspberry-pi-5", "model": {"name": "lenet"}}])],
) -> dict[str, Any]:
    """Ask a hardware simulator what some work costs; fields are those of its request."""
    asked = validate(load(simulator.value).Request, fields)
    return request.app.state.service.hwsim.estimate(simulator.value, asked).as_dict()

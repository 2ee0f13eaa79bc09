from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router

from fleet.api.schemas import Lines, ModelOut, NodeOut, PlacementOut, StatusOut
from fleet.services import node_logs, overview, settings_warnings
from neuron.wire import ModelLog

router = Router(tags=["fleet"])


@router.get("/status", response=StatusOut)
def status(request: HttpRequest) -> Any:
    """The whole fleet: nodes with their devices and models, the catalogue, active operations."""
    return overview.status()


@router.get("/nodes", response=list[NodeOut])
def nodes(request: HttpRequest) -> Any:
    return overview.nodes()


@router.get("/models", response=list[ModelOut])
def models(request: HttpRequest) -> Any:
    return overview.profiles()


@router.get("/placements", response=list[PlacementOut])
def placements(request: HttpRequest) -> Any:
    return overview.placements()


@router.get("/models/log", response=ModelLog)
def log(request: HttpRequest, model: str, node: str | None = None, lines: Lines = 200) -> Any:
    """The last lines that a managed engine's server wrote, on a node or on the first that has the model."""
    return ModelLog(lines=node_logs.lines_of(model, node, lines=lines))


@router.get("/warnings", response=list[str])
def warnings(request: HttpRequest) -> Any:
    """Contradictions between the settings files and the fleet, one line each: file, line, key, why."""
    return settings_warnings.found()

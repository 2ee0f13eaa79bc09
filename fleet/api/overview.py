from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router

from fleet.api.schemas import ModelOut, NodeOut, PlacementOut, StatusOut
from fleet.services import overview, settings_warnings

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


@router.get("/warnings", response=list[str])
def warnings(request: HttpRequest) -> Any:
    """Contradictions between the settings files and the fleet, one line each: file, line, key, why."""
    return settings_warnings.found()

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router

from fleet.api.schemas import ModelOut, NodeOut, PlacementOut, StatusOut
from fleet.services import overview, settings_warnings

router = Router(tags=["fleet"])


@router.get("/status", response=StatusOut)
def status(request: HttpRequest) -> Any:
    """Everything at a glance: nodes with their devices and models, the catalogue, operations under way."""
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
    """What `models.toml` says that the files or the fleet contradict: file, line, key, why."""
    return settings_warnings.found()

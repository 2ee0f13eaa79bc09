from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Field, Router, Schema, Status

from fleet.api.schemas import Limit, OperationOut, OperationStateOut
from fleet.permissions import operator
from fleet.services import lifecycle, overview

router = Router(tags=["operations"])


class LoadIn(Schema):
    model: str = Field(min_length=1, max_length=200)
    node: str | None = Field(None, description="The node; chosen if absent")
    reason: str = Field("", max_length=500)


class UnloadIn(Schema):
    model: str = Field(min_length=1, max_length=200)
    node: str = Field(min_length=1)
    reason: str = Field("", max_length=500)
    force: bool = Field(False, description="End requests under way instead of waiting for them")


class DisruptIn(Schema):
    reason: str = Field("", max_length=500)
    force: bool = Field(False, description="End requests under way instead of waiting for them")


@router.get("/operations", response=list[OperationOut])
def operations(
    request: HttpRequest, state: str | None = None, before: int | None = None, limit: Limit = 100
) -> Any:
    """One page, newest first; `before` is the last id of the page before it."""
    return overview.operations(state=state, before=before, limit=limit)


@router.get("/operations/{operation_id}", response=OperationStateOut)
def operation(request: HttpRequest, operation_id: int) -> Any:
    """The operation as it is now."""
    return lifecycle.operation(operation_id)


@router.post("/models/load", response={202: OperationStateOut})
def load(request: HttpRequest, payload: LoadIn) -> Any:
    """Start a load, or join the one under way; watch it at `/api/operations/{id}`."""
    started = lifecycle.load(
        payload.model, payload.node, requested_by=operator(request), reason=payload.reason
    )
    return Status(202, started)


@router.post("/models/unload", response={202: OperationStateOut})
def unload(request: HttpRequest, payload: UnloadIn) -> Any:
    """Unload once requests under way have ended, or at once by `force`."""
    started = lifecycle.unload(
        payload.model,
        payload.node,
        requested_by=operator(request),
        reason=payload.reason,
        force=payload.force,
    )
    return Status(202, started)


@router.post("/nodes/{name}/drain", response={202: OperationStateOut})
def drain(request: HttpRequest, name: str, payload: DisruptIn) -> Any:
    """Cordon the node and unload all of its models."""
    started = lifecycle.drain(
        name, requested_by=operator(request), reason=payload.reason, force=payload.force
    )
    return Status(202, started)


@router.post("/nodes/{name}/devices/{index}/restart", response={202: OperationStateOut})
def restart(request: HttpRequest, name: str, index: int, payload: DisruptIn) -> Any:
    """Replace the device's worker process and load its models again."""
    started = lifecycle.restart(
        name, index, requested_by=operator(request), reason=payload.reason, force=payload.force
    )
    return Status(202, started)


@router.post("/nodes/{name}/devices/{index}/defrag", response={202: OperationStateOut})
def defrag(request: HttpRequest, name: str, index: int, payload: DisruptIn) -> Any:
    """Restart the device for memory in one piece."""
    started = lifecycle.defrag(
        name, index, requested_by=operator(request), reason=payload.reason, force=payload.force
    )
    return Status(202, started)


@router.post("/operations/{operation_id}/retry", response={202: OperationStateOut})
def retry(request: HttpRequest, operation_id: int) -> Any:
    """Ask once more for what a failed operation was asked for; 409 for any other, and for evictions."""
    return Status(202, lifecycle.retry(operation_id, requested_by=operator(request)))


@router.post("/operations/{operation_id}/cancel", response=OperationStateOut)
def cancel(request: HttpRequest, operation_id: int) -> Any:
    """Cancel an operation that has not begun; 409 for any other."""
    return lifecycle.cancel(operation_id, requested_by=operator(request))

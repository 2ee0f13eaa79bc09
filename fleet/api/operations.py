from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema, Status

from fleet.api.schemas import OperationOut
from fleet.services import lifecycle, overview
from neuron.wire import ApiError

router = Router(tags=["operations"])

Limit = Annotated[int, Query(ge=1, le=500)]


class LoadIn(Schema):
    model: str = Field(min_length=1, max_length=200)
    node: str | None = Field(None, description="Where; the best place when absent")
    reason: str = Field("", max_length=500)


class UnloadIn(Schema):
    model: str = Field(min_length=1, max_length=200)
    node: str = Field(min_length=1)
    reason: str = Field("", max_length=500)
    force: bool = Field(False, description="End requests under way; else they are waited for")


class OperationStateOut(Schema):
    id: int
    kind: str
    model: str = Field(description="Empty where it is about a node or a device")
    node: str
    device: int | None
    state: str
    progress: float | None
    message: str
    error_code: str


@router.get("/operations", response=list[OperationOut])
def operations(
    request: HttpRequest, state: str | None = None, before: int | None = None, limit: Limit = 100
) -> Any:
    """The newest first. The next page is asked for with `before` = the last id of this one."""
    return overview.operations(state=state, before=before, limit=limit)


@router.get("/operations/{operation_id}", response=OperationStateOut)
def operation(request: HttpRequest, operation_id: int) -> Any:
    return lifecycle.operation(operation_id)


@router.post("/models/load", response={202: OperationStateOut})
def load(request: HttpRequest, payload: LoadIn) -> Any:
    """Starts a load, or returns the one under way; watch it at `/api/operations/{id}`."""
    return Status(
        202, lifecycle.load(payload.model, payload.node, requested_by=who(request), reason=payload.reason)
    )


@router.post("/models/unload", response={202: OperationStateOut})
def unload(request: HttpRequest, payload: UnloadIn) -> Any:
    """Once requests under way have ended, or at once by `force`."""
    started = lifecycle.unload(
        payload.model,
        payload.node,
        requested_by=who(request),
        reason=payload.reason,
        force=payload.force,
    )
    return Status(202, started)


@router.post("/operations/{operation_id}/retry", response={202: OperationStateOut})
def retry(request: HttpRequest, operation_id: int) -> Any:
    return Status(202, lifecycle.retry(operation_id, requested_by=who(request)))


@router.post("/operations/{operation_id}/cancel", response=OperationStateOut)
def cancel(request: HttpRequest, operation_id: int) -> Any:
    return lifecycle.cancel(operation_id, requested_by=who(request))


def who(request: Any) -> str:
    """Who asks; `ApiError` 403 for staff who may look only."""
    asker = request.auth  # set by ninja: "operator" for the token, else the user
    if asker != "operator" and not asker.has_perm("fleet.add_operation"):
        raise ApiError(403, "forbidden", f"{asker} may not start operations.")
    return str(asker)

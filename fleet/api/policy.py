"""What an operator decides about nodes, devices and residency; and the log of what was decided."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema, Status

from fleet.api.operations import Limit, OperationStateOut, who
from fleet.models import AuditEntry, Operation
from fleet.services import policy

router = Router(tags=["steering"])

Name = Annotated[str, Query(max_length=200)]


class WhyIn(Schema):
    reason: str = Field("", max_length=500)


class ForceIn(WhyIn):
    force: bool = Field(False, description="End requests under way; else they are waited for")


class PinIn(WhyIn):
    model: str = Field(min_length=1, max_length=200)
    node: str | None = Field(None, description="Kept loaded there; wherever it is when absent")


class DoneOut(Schema):
    done: bool = True


class AuditOut(Schema):
    id: int
    at: datetime
    who: str
    action: str
    target: str
    why: str
    detail: dict[str, Any]


@router.post("/nodes/{name}/cordon", response=DoneOut)
def cordon(request: HttpRequest, name: str, payload: WhyIn) -> Any:
    """Nothing new is loaded on the node; what is loaded goes on."""
    policy.cordon(name, requested_by=who(request), reason=payload.reason)
    return DoneOut()


@router.post("/nodes/{name}/uncordon", response=DoneOut)
def uncordon(request: HttpRequest, name: str, payload: WhyIn) -> Any:
    policy.uncordon(name, requested_by=who(request), reason=payload.reason)
    return DoneOut()


@router.post("/nodes/{name}/drain", response={202: OperationStateOut})
def drain(request: HttpRequest, name: str, payload: ForceIn) -> Any:
    """Cordon the node, and have all of its models leave."""
    started = policy.drain(name, requested_by=who(request), reason=payload.reason, force=payload.force)
    return Status(202, started)


@router.post("/nodes/{name}/devices/{index}/restart", response={202: OperationStateOut})
def restart(request: HttpRequest, name: str, index: int, payload: ForceIn) -> Any:
    """A new worker process for the device; its models are loaded again."""
    return Status(202, _restart(request, name, index, payload, Operation.Kind.RESTART))


@router.post("/nodes/{name}/devices/{index}/defrag", response={202: OperationStateOut})
def defrag(request: HttpRequest, name: str, index: int, payload: ForceIn) -> Any:
    """The same, counted as defragmentation."""
    return Status(202, _restart(request, name, index, payload, Operation.Kind.DEFRAG))


def _restart(request: HttpRequest, name: str, index: int, payload: ForceIn, kind: str) -> Any:
    return policy.restart(
        name, index, requested_by=who(request), reason=payload.reason, force=payload.force, kind=kind
    )


@router.post("/models/pin", response=DoneOut)
def pin(request: HttpRequest, payload: PinIn) -> Any:
    """Never evict the model: keep it loaded on a node, or leave it wherever it is."""
    policy.pin(payload.model, payload.node, requested_by=who(request), reason=payload.reason)
    return DoneOut()


@router.post("/models/unpin", response=DoneOut)
def unpin(request: HttpRequest, payload: PinIn) -> Any:
    """From a node, or altogether."""
    policy.unpin(payload.model, payload.node, requested_by=who(request), reason=payload.reason)
    return DoneOut()


@router.get("/audit", response=list[AuditOut])
def audit(
    request: HttpRequest,
    by: Name | None = None,
    action: Name | None = None,
    before: int | None = None,
    limit: Limit = 100,
) -> Any:
    """Who decided what and why, the newest first; the next page is asked for with `before`."""
    rows = AuditEntry.objects.order_by("-id")
    rows = rows.filter(who=by) if by else rows
    rows = rows.filter(action=action) if action else rows
    return (rows if before is None else rows.filter(pk__lt=before))[:limit]

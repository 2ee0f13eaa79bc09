"""Where models may be: cordons and pins."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Field, Router, Schema

from fleet.permissions import operator
from fleet.services import policy

router = Router(tags=["policy"])


class WhyIn(Schema):
    reason: str = Field("", max_length=500)


class PinIn(WhyIn):
    model: str = Field(min_length=1, max_length=200)
    node: str | None = Field(None, description="Where to keep it loaded; wherever it is loaded if absent")


class DoneOut(Schema):
    done: bool = True


@router.post("/nodes/{name}/cordon", response=DoneOut)
def cordon(request: HttpRequest, name: str, payload: WhyIn) -> Any:
    """Load nothing new on the node; its models stay."""
    policy.cordon(name, requested_by=operator(request), reason=payload.reason)
    return DoneOut()


@router.post("/nodes/{name}/uncordon", response=DoneOut)
def uncordon(request: HttpRequest, name: str, payload: WhyIn) -> Any:
    """Allow loads on the node again."""
    policy.uncordon(name, requested_by=operator(request), reason=payload.reason)
    return DoneOut()


@router.post("/models/pin", response=DoneOut)
def pin(request: HttpRequest, payload: PinIn) -> Any:
    """Never evict the model wherever it is loaded; or keep it loaded on a node."""
    policy.pin(payload.model, payload.node, requested_by=operator(request), reason=payload.reason)
    return DoneOut()


@router.post("/models/unpin", response=DoneOut)
def unpin(request: HttpRequest, payload: PinIn) -> Any:
    """Remove the model's pin on a node, or all of its pins."""
    policy.unpin(payload.model, payload.node, requested_by=operator(request), reason=payload.reason)
    return DoneOut()

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Field, Router, Schema, Status

from cortex_site.config import current
from fleet.models import JoinToken
from fleet.permissions import operator
from fleet.services import joining
from neuron.wire import ApiError, JoinAnswer, JoinRequest

router = Router(tags=["joining"])

MAX_TTL_S = 366 * 86_400


class JoinTokenIn(Schema):
    name: str = Field("", max_length=100, description="What it is for")
    ttl_s: int | None = Field(None, ge=1, le=MAX_TTL_S, description="`join.token_ttl_s` when absent")


class JoinTokenOut(Schema):
    id: int
    name: str
    prefix: str
    state: str
    expires_at: datetime
    made_by: str
    last_used_at: datetime | None


class MadeJoinTokenOut(JoinTokenOut):
    token: str = Field(description="Shown in this answer only")


class BeatIn(Schema):
    name: str = Field(max_length=100)


@router.get("/join-tokens", response=list[JoinTokenOut])
def join_tokens(request: HttpRequest) -> Any:
    return JoinToken.objects.all()


@router.post("/join-tokens", response=MadeJoinTokenOut)
def make_join_token(request: HttpRequest, payload: JoinTokenIn) -> Any:
    """Create a token with which neurons register themselves."""
    row, token = joining.create(name=payload.name, ttl_s=payload.ttl_s, made_by=operator(request))
    row.token = token  # not a column: for this answer alone
    return row


@router.post("/join-tokens/{token_id}/revoke", response=JoinTokenOut)
def revoke_join_token(request: HttpRequest, token_id: int) -> Any:
    return joining.revoke(token_id, requested_by=operator(request))


@router.post("/join", auth=None, response=JoinAnswer)
def join(request: HttpRequest, payload: JoinRequest) -> Any:
    """Register a neuron, or update it when it comes back. The bearer is a join token."""
    node = joining.join(_bearer(request), payload)
    return JoinAnswer(name=node.name, heartbeat_s=current().join.heartbeat_s)


@router.post("/join/heartbeat", auth=None, response={204: None})
def heartbeat(request: HttpRequest, payload: BeatIn) -> Any:
    """Keep a neuron that has joined. The bearer is the secret of its own API."""
    joining.beat(payload.name, _bearer(request))
    return Status(204, None)


def _bearer(request: HttpRequest) -> str:
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise ApiError(401, "invalid_join_token", "No token: send it as `Authorization: Bearer …`.")
    return str(credential.strip())

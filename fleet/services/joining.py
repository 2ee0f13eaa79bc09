"""Nodes that register themselves: a join token admits a neuron, heartbeats keep it, silence removes it.

A heartbeat is signed with the secret of the neuron's own API, so that nodes stay when the join token that
admitted them expires.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from datetime import datetime, timedelta
from typing import cast

from django.db import transaction
from django.utils import timezone

from cortex_site.config import current
from fleet.models import JoinToken, Node
from fleet.services import audit
from fleet.services.keys import digest
from neuron.wire import PROTOCOL, ApiError, JoinRequest

log = logging.getLogger("cortex.join")

PREFIX = "join-cortex-"
SHOWN = len(PREFIX) + 6
_ENDPOINT = re.compile(r"https?://[^/\s@?#]+")
CURE = "make a new one with `cortex join-token`"


def issue(row: JoinToken) -> str:
    """Give an unsaved row its secret, save it, and return the only copy of the token."""
    token = PREFIX + secrets.token_urlsafe(32)
    row.prefix = token[:SHOWN]
    row.digest = digest(token)
    with transaction.atomic():
        row.save()
        audit.note(row.made_by, "make join token", row.prefix, row.name)
    return token


def create(*, name: str = "", ttl_s: float | None = None, made_by: str = "") -> tuple[JoinToken, str]:
    """A new row and its token, which expires after `ttl_s`, or `join.token_ttl_s`."""
    row = JoinToken(name=name, expires_at=expiry(ttl_s), made_by=made_by)
    return row, issue(row)


def expiry(ttl_s: float | None = None) -> datetime:
    """When a token that is made now expires: after `ttl_s`, or `join.token_ttl_s`."""
    now: datetime = timezone.now()
    return now + timedelta(seconds=ttl_s or current().join.token_ttl_s)


def revoke(token_id: int, *, requested_by: str) -> JoinToken:
    """Admit nobody with the token any more; nodes that joined with it stay. Raises `ApiError` 404."""
    row: JoinToken | None = JoinToken.objects.filter(pk=token_id).first()
    if row is None:
        raise ApiError(404, "join_token_not_found", f"There is no join token {token_id}.")
    row.revoked = True
    with transaction.atomic():
        row.save(update_fields=["revoked"])
        audit.note(requested_by, "revoke join token", row.prefix, row.name)
    return row


def join(token: str, wish: JoinRequest) -> Node:
    """The node of that name, created or updated.

    Raises `ApiError`: 401 for a token that is unknown or not valid, 409 for a name or an endpoint of another
    node and for another protocol, 422 for an endpoint that is no URL.
    """
    admitted = _admit(token)
    _check(wish)
    with transaction.atomic():
        node = _place_for(wish)
        Node.objects.filter(endpoint=wish.endpoint, joined=True).exclude(pk=node.pk).delete()  # renamed
        node.endpoint = wish.endpoint
        node.token = wish.token
        node.labels = wish.labels
        node.heartbeat_at = timezone.now()
        # the rest of the row is written by polls and operators meanwhile
        node.save(update_fields=["endpoint", "token", "labels", "heartbeat_at"] if node.pk else None)
        audit.note(f"join token {admitted.prefix}", "join", node.name, endpoint=node.endpoint)
    log.info("node joined", extra={"node": node.name, "endpoint": node.endpoint})
    return node


def _admit(token: str) -> JoinToken:
    row: JoinToken | None = JoinToken.objects.filter(digest=digest(token)).first()
    if row is None:
        raise ApiError(401, "invalid_join_token", f"The join token is unknown; {CURE}.")
    if row.state != "valid":
        raise ApiError(401, "invalid_join_token", f"The join token {row.prefix}… is {row.state}; {CURE}.")
    JoinToken.objects.filter(pk=row.pk).update(last_used_at=timezone.now())
    return row


def _check(wish: JoinRequest) -> None:
    if wish.protocol != PROTOCOL:
        message = f"{wish.name} speaks protocol {wish.protocol}, this cortex {PROTOCOL}: update one."
        raise ApiError(409, "node_protocol", message, param="protocol")
    if not _ENDPOINT.fullmatch(wish.endpoint):
        message = f"endpoint: expected a URL such as http://host:13131, found {wish.endpoint!r}."
        raise ApiError(422, "invalid_endpoint", message, param="endpoint")


def _place_for(wish: JoinRequest) -> Node:
    configured = Node.objects.filter(endpoint=wish.endpoint, joined=False).first()
    if configured is not None:
        message = f"{wish.endpoint} is configured as the node {configured.name!r}; it need not join."
        raise ApiError(409, "endpoint_taken", message, param="endpoint")
    node = Node.objects.filter(name=wish.name).first() or Node(name=wish.name, joined=True)
    if not node.joined:
        message = f"A node {wish.name!r} is configured already; join under another --name."
        raise ApiError(409, "name_taken", message, param="name")
    if node.pk and node.endpoint != wish.endpoint and node.heartbeat_at > _oldest_heartbeat():
        message = f"The node {wish.name!r} is in the fleet from {node.endpoint}; join under another --name."
        raise ApiError(409, "name_taken", message, param="name")
    return cast("Node", node)


def beat(name: str, secret: str) -> None:
    """Record a heartbeat. Raises `ApiError` 404 when the node has to join again."""
    node = Node.objects.filter(name=name, joined=True).first()
    if node is None or not hmac.compare_digest(node.token.encode(), secret.encode()):
        raise ApiError(404, "node_not_found", f"No node {name!r} has joined with this secret.")
    Node.objects.filter(pk=node.pk).update(heartbeat_at=timezone.now())


def drop_silent() -> list[str]:
    """Remove joined nodes whose heartbeats stopped, except those that answer polls; return their names."""
    silent = Node.objects.filter(joined=True, healthy=False, heartbeat_at__lt=_oldest_heartbeat())
    names = list(silent.values_list("name", flat=True))
    for node in silent:
        with transaction.atomic():
            audit.note("cortex", "drop out", node.name, f"no heartbeat since {node.heartbeat_at}")
            node.delete()
        log.warning("node dropped out", extra={"node": node.name, "heartbeat_at": str(node.heartbeat_at)})
    return names


def _oldest_heartbeat() -> datetime:
    now: datetime = timezone.now()
    return now - timedelta(seconds=current().join.drop_after_s)

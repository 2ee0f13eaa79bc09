from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Query, Router, Schema

from fleet.api.schemas import Limit
from fleet.models import AuditEntry

router = Router(tags=["audit"])

Name = Annotated[str, Query(max_length=200)]


class AuditOut(Schema):
    id: int
    at: datetime
    who: str
    action: str
    target: str
    why: str
    detail: dict[str, Any]


@router.get("/audit", response=list[AuditOut])
def audit(
    request: HttpRequest,
    by: Name | None = None,
    action: Name | None = None,
    before: int | None = None,
    limit: Limit = 100,
) -> Any:
    """Who decided what and why: one page, newest first; `before` is the last id of the page before it."""
    rows = AuditEntry.objects.order_by("-id")
    if by:
        rows = rows.filter(who=by)
    if action:
        rows = rows.filter(action=action)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    return rows[:limit]

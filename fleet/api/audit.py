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
    """Who decided what and why, the newest first; the next page is asked for with `before`."""
    rows = AuditEntry.objects.order_by("-id")
    rows = rows.filter(who=by) if by else rows
    rows = rows.filter(action=action) if action else rows
    return (rows if before is None else rows.filter(pk__lt=before))[:limit]

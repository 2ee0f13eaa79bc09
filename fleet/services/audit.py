"""The audit log: every decision about the fleet, a person's or the fleet's own."""

from __future__ import annotations

from typing import Any

from fleet.models import AuditEntry


def note(who: str, action: str, target: str, why: str = "", **detail: Any) -> None:
    """Write an entry. `who` is a user, "operator" for the token, or the part of cortex that decided."""
    AuditEntry.objects.create(
        who=who[:200] or "cortex", action=action, target=target[:300], why=why[:500], detail=detail
    )

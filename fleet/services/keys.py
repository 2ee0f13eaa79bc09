"""API keys: made once, shown once, stored as a digest."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime

from fleet.models import ApiKey

PREFIX = "sk-cortex-"
SHOWN = len(PREFIX) + 6


def digest(key: str) -> str:
    """SHA-256 in hex. The key has 256 random bits: a slow hash would add nothing."""
    return hashlib.sha256(key.encode()).hexdigest()


def issue(row: ApiKey) -> str:
    """Give an unsaved row its secret and save it; the return value is the only copy of the key."""
    key = PREFIX + secrets.token_urlsafe(32)
    row.prefix, row.digest = key[:SHOWN], digest(key)
    row.save()
    return key


def create(
    name: str, *, models: Sequence[str] = (), expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key under an unused name; the key itself is the second value."""
    row = ApiKey(name=name, models=list(models), expires_at=expires_at)
    return row, issue(row)


def disable(name: str) -> bool:
    """Whether there was such a key; it stops working on every gateway within seconds."""
    row = ApiKey.objects.filter(name=name).first()
    if row is None:
        return False
    row.disabled = True
    row.save(update_fields=["disabled"])
    return True

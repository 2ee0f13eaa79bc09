"""API keys: created once, shown once, stored as a digest."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import redis
from django.conf import settings

from fleet.key_limits import Account, KeyLimits, in_use, period, read_account, redis_keys, slots_of
from fleet.models import ApiKey

PREFIX = "sk-cortex-"
SHOWN = len(PREFIX) + 6


def digest(key: str) -> str:
    """SHA-256 in hex. The key has 256 random bits: a slow hash would add nothing."""
    return hashlib.sha256(key.encode()).hexdigest()


def issue(row: ApiKey) -> str:
    """Give an unsaved row its secret, save it, and return the only copy of the key."""
    key = PREFIX + secrets.token_urlsafe(32)
    row.prefix = key[:SHOWN]
    row.digest = digest(key)
    row.save()
    return key


def create(
    name: str,
    *,
    models: Sequence[str] = (),
    expires_at: datetime | None = None,
    limits: KeyLimits | None = None,
) -> tuple[ApiKey, str]:
    """A new row under an unused name, and its key."""
    bounds = asdict(limits) if limits else {}
    row = ApiKey(name=name, models=list(models), expires_at=expires_at, **bounds)
    return row, issue(row)


def disable(name: str) -> bool:
    """Disable a key on every gateway within seconds; return whether there is one of that name."""
    row = ApiKey.objects.filter(name=name).first()
    if row is None:
        return False
    row.disabled = True
    row.save(update_fields=["disabled"])
    return True


@dataclass(frozen=True, slots=True)
class KeyBudget:
    """A key's budget of tokens in the period that it is in."""

    name: str
    spent: int
    limit: int
    period: str

    @property
    def left(self) -> int:
        return max(0, self.limit - self.spent)

    @property
    def is_short(self) -> bool:
        """Whether a tenth of it is left, or less."""
        return 10 * self.left <= self.limit


def budgets(rows: Iterable[ApiKey]) -> list[KeyBudget]:
    """What keys with a budget have spent of it, the shortest first; empty while Redis does not answer."""
    told = [
        KeyBudget(
            str(row.name), _spent(row.limits, account), row.limits.budget_tokens, row.limits.budget_period
        )
        for row, account, _ in _accounts([row for row in rows if row.budget_tokens])
        if row.limits.budget_tokens
    ]
    return sorted(told, key=lambda budget: budget.left / budget.limit)


def usage(rows: Iterable[ApiKey]) -> dict[str, str]:
    """The current use of keys that have limits, as text by digest; empty while Redis does not answer."""
    accounts = _accounts([row for row in rows if row.limits])
    return {row.digest: _usage_text(row.limits, account, running) for row, account, running in accounts}


def _accounts(rows: Sequence[ApiKey]) -> list[tuple[ApiKey, Account, int]]:
    """Each row, what Redis keeps of it and how many of its requests run; empty while it does not answer."""
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1) as client:
            pipe = client.pipeline(transaction=False)
            for row in rows:
                account, leases = redis_keys(row.digest)
                pipe.get(account)
                pipe.zrangebyscore(leases, time.time(), "+inf")
            answers = pipe.execute()
    except redis.RedisError:
        return []
    return [
        (row, read_account(stored), sum(map(slots_of, held)))
        for row, stored, held in zip(rows, answers[::2], answers[1::2], strict=True)
    ]


def _spent(limits: KeyLimits, account: Account) -> int:
    """What was spent in the current period."""
    return account.spent if account.window == period(limits.budget_period, time.time())[0] else 0


def _usage_text(limits: KeyLimits, account: Account, running: int) -> str:
    now = time.time()
    parts = []
    if limit := limits.requests_per_minute:
        parts.append(f"{in_use(account.requests, limit, now):,} of {limit:,} requests a minute")
    if limit := limits.tokens_per_minute:
        parts.append(f"{in_use(account.tokens, limit, now):,} of {limit:,} tokens a minute")
    if limit := limits.concurrent_requests:
        parts.append(f"{running} of {limit} at once")
    if limit := limits.budget_tokens:
        parts.append(f"{_spent(limits, account):,} of {limit:,} tokens this {limits.budget_period}")
    return "; ".join(parts)

"""What an API key may use, as arithmetic: reserve before a request, settle after it. No I/O, no clock.

Rates are the Generic Cell Rate Algorithm in its virtual scheduling form (ITU-T I.371, annex A): one
theoretical arrival time per bucket, in seconds since the epoch; a bucket holds one minute's worth. In any t
seconds at most `limit * (1 + t / 60)` pass. The budget is a count per calendar period (UTC), and what is open
is a set of leases: a worker that dies renews none, and what it had reserved comes back.

A worker prefetches a grant for the requests of a key that are to come, admits them by that alone
(`ext.prefetch`), and returns the rest. Nothing is used that was not taken before, so no bound is exceeded.
What a worker has prefetched, a `SHARE`th of what was left at most, is not there for others in the meantime; a
few requests may be a larger share, and are held longer; where they are at most one part in `PLENTY` of what
was left, longer still, and `MORE` times as many are taken if that is no larger part either.

`fleet.gateway.limits.scripts` says the same in Lua, for accounts that several workers share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct
from typing import Literal

import msgspec

from ext.prefetch import FEW, LONGER, MINUTE_S, Grant

Period = Literal["hour", "day", "month"]
Bound = Literal["", "concurrent", "requests", "tokens", "budget"]

HOUR_S = 3600
BUSY_WAIT_S = 1.0  # it is not known when a running request ends
SHARE, SHARE_OF_FEW = 32, 8  # a prefetch takes at most one part in so many of what is left
PLENTY = 1024  # one part in so many is next to nothing
MORE = 8  # times a few requests are taken where that is next to nothing, too


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may use; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    budget_tokens: int | None = None
    budget_period: Period = "month"

    def __bool__(self) -> bool:
        return (
            self.concurrent_requests is not None
            or self.requests_per_minute is not None
            or self.tokens_per_minute is not None
            or self.budget_tokens is not None
        )

    def never_fits(self, tokens: int) -> Bound:
        """The bound that a request of `tokens` exceeds even when nothing else was used; empty when none."""
        if self.tokens_per_minute is not None and tokens > self.tokens_per_minute:
            return "tokens"
        return ""


@dataclass(slots=True)
class Remainder:
    """What is left of a prefetched grant, and the requests that still run by it."""

    grant: Grant
    requests: int
    tokens: int  # below 0 when ended requests used more than was reserved for them
    running: list[Grant]


class Admission(msgspec.Struct, frozen=True):
    """Whether a request is admitted, and how the account stands then. Durations in seconds."""

    refused_by: Bound  # empty when it is admitted
    wait_s: float  # until it is worth trying again
    at: float
    end: float
    requests_reset_s: float  # until the bucket is empty
    tokens_reset_s: float


Standing = Admission | Grant  # what says how an account stands


@dataclass(slots=True)
class Account:
    """What one key has used."""

    born: float = 0.0
    requests: float = 0.0  # theoretical arrival times
    tokens: float = 0.0
    window: int = 0
    spent: int = 0  # tokens settled or reserved in this window
    leases: dict[str, tuple[float, Grant]] = field(default_factory=dict)  # by id: until when, for what

    @property
    def open(self) -> int:
        """The number of requests that may be under way."""
        return sum(grant.slots for _, grant in self.leases.values())

    def roll(self, window: int) -> None:
        """Begin a later budget period with nothing spent. An earlier one is over and changes nothing."""
        if window > self.window:
            self.window, self.spent = window, 0

    def expire(self, now: float) -> None:
        """Give back what is reserved by leases that have run out: their workers have died."""
        for ident, (until, grant) in list(self.leases.items()):
            if until <= now:
                del self.leases[ident]
                self.charge(grant.window, -grant.tokens)

    def charge(self, window: int, tokens: int) -> None:
        if window == self.window:
            self.spent += tokens


def reserve(account: Account, limits: KeyLimits, grant: Grant, now: float, lease_s: float) -> Admission:
    """Take what `grant`, one request's, asks for if all of it fits, else nothing."""
    account.born = account.born or now
    account.expire(now)
    account.roll(grant.window)
    requests, request_wait = _filled(account.requests, limits.requests_per_minute, 1, now)
    tokens, token_wait = _filled(account.tokens, limits.tokens_per_minute, grant.tokens, now)
    refused_by: Bound = ""
    wait_s = 0.0
    if limits.concurrent_requests is not None and account.open >= limits.concurrent_requests:
        refused_by, wait_s = "concurrent", BUSY_WAIT_S
    elif request_wait > 0:
        refused_by, wait_s = "requests", request_wait
    elif token_wait > 0:
        refused_by, wait_s = "tokens", token_wait
    elif limits.budget_tokens is not None and account.spent + grant.tokens > limits.budget_tokens:
        refused_by = "budget"
    else:
        account.requests, account.tokens = requests, tokens
        account.charge(grant.window, grant.tokens)
        account.leases[grant.id] = (now + lease_s, grant)
    resets = max(0.0, account.requests - now), max(0.0, account.tokens - now)
    return Admission(refused_by, wait_s, now, account.tokens, *resets)


def prefetch(
    account: Account,
    limits: KeyLimits,
    wanted: Grant,
    now: float,
    lease_s: float,
    admitted: Sequence[Grant] = (),
) -> Grant | None:
    """Take as much of `wanted` as a part of what each bound has left; None where no request could use that.

    Follows the `reserve` of `admitted` in the same step: their grants become parts of this one, but for those
    of another budget period.
    """
    account.roll(wanted.window)
    left = _all_left(account, limits, now)
    few = wanted.requests <= FEW
    taken = [
        int(min(most, rest / (SHARE_OF_FEW if few else SHARE)))
        for most, rest in zip(_figures(wanted), left, strict=True)
    ]
    requests, slots, tokens = taken
    plenty = few and all(PLENTY * some <= rest for some, rest in zip(taken, left, strict=True))
    if min(requests, slots) <= 0 or tokens * wanted.requests < wanted.tokens:
        return None
    if plenty and all(PLENTY * MORE * some <= left[at] for at, some in ((0, requests), (2, tokens))):
        requests, tokens = MORE * requests, MORE * tokens
    account.requests, _ = _filled(account.requests, limits.requests_per_minute, requests, now)
    account.tokens, _ = _filled(account.tokens, limits.tokens_per_minute, tokens, now)
    account.charge(wanted.window, tokens)
    for one in admitted:
        if one.window != wanted.window:
            continue
        del account.leases[one.id]
        requests, slots, tokens = requests + 1, slots + 1, tokens + one.tokens
    grant = Grant(wanted.id, tokens, wanted.window, now, account.tokens, account.requests, requests, slots)
    grant.plenty = plenty
    account.leases[grant.id] = (now + lease_s * (LONGER if plenty else 1), grant)
    return grant


def settle(
    account: Account, limits: KeyLimits, grant: Grant, used: int, now: float, *, again: bool = False
) -> None:
    """Charge the tokens that were used instead of those reserved.

    A grant that the account does not know (its lease ran out, or the account was lost) is charged to the
    budget in full, unless this may be its second settlement (`again`).
    """
    account.born = account.born or now
    account.roll(grant.window)
    if account.leases.pop(grant.id, None) is None:
        account.charge(grant.window, 0 if again else used)
        return
    account.charge(grant.window, used - grant.tokens)
    if limits.tokens_per_minute is not None and grant.at >= account.born:
        excess = grant.tokens - used
        account.tokens = _corrected(account.tokens, limits.tokens_per_minute, excess, grant.end, now)


def release(
    account: Account,
    limits: KeyLimits,
    remainder: Remainder,
    now: float,
    lease_s: float,
    *,
    again: bool = False,
) -> None:
    """Take the rest of a prefetch back. From now on each running request counts as reserved by itself."""
    grant, running = remainder.grant, remainder.running
    known = grant.id in account.leases
    settle(account, limits, grant, grant.tokens - remainder.tokens, now, again=again)
    if known and limits.requests_per_minute is not None and grant.at >= account.born:
        limit = limits.requests_per_minute
        account.requests = _corrected(account.requests, limit, remainder.requests, grant.requests_end, now)
    if known or not again:  # else they were entered the first time, and some may have ended since
        for one in running:
            if one.id in account.leases:  # a renewal was faster, and has charged it
                account.charge(one.window, -one.tokens)
            account.leases[one.id] = (now + lease_s, one)


def renew(account: Account, grants: Iterable[Grant], now: float, lease_s: float) -> None:
    """Extend leases. One that the account has lost is entered again."""
    account.born = account.born or now
    for grant in grants:
        account.roll(grant.window)
        if grant.id not in account.leases:
            account.charge(grant.window, grant.tokens)
        account.leases[grant.id] = (now + lease_s, grant)


def _filled(arrival: float, limit: int | None, amount: int, now: float) -> tuple[float, float]:
    """The bucket's theoretical arrival time with `amount` added, and how many seconds too early that is."""
    if limit is None:
        return arrival, 0.0
    after = max(arrival, now) + amount * MINUTE_S / limit
    return after, after - now - MINUTE_S


def _left(arrival: float, limit: int | None, now: float) -> float:
    """How much the bucket admits at once."""
    return math.inf if limit is None else (now + MINUTE_S - max(arrival, now)) * limit / MINUTE_S


def _all_left(account: Account, limits: KeyLimits, now: float) -> tuple[float, float, float]:
    """Of requests, of slots and of tokens."""
    slots = math.inf if limits.concurrent_requests is None else limits.concurrent_requests - account.open
    budget = math.inf if limits.budget_tokens is None else limits.budget_tokens - account.spent
    return (
        _left(account.requests, limits.requests_per_minute, now),
        slots,
        min(budget, _left(account.tokens, limits.tokens_per_minute, now)),
    )


def _figures(wanted: Grant) -> tuple[int, int, int]:
    return wanted.requests, wanted.slots, wanted.tokens


def _corrected(arrival: float, limit: int, excess: int, end: float, now: float) -> float:
    """The bucket's arrival time with the unused `excess` given back, as far as it has not drained by itself.

    `end` is the arrival time just after it was taken. A negative excess is charged in full.
    """
    excess_s = excess * MINUTE_S / limit
    if excess_s < 0:
        return max(arrival, now) - excess_s
    return arrival - min(excess_s, max(0.0, end - now))


def in_use(arrival: float, limit: int, now: float) -> int:
    """How much of a minute's `limit` counts as used at `now`."""
    return math.ceil(max(0.0, arrival - now) * limit / MINUTE_S - 1e-3)


STORED = Struct("<dddddd")  # an account in Redis: born, requests, tokens, window, spent, open


def read_account(stored: bytes | None) -> Account:
    """The account as Redis stores it, without its leases; a new one where nothing is stored."""
    if stored is None:
        return Account()
    born, requests, tokens, window, spent, _ = STORED.unpack(stored)
    return Account(born, requests, tokens, int(window), int(spent))


def slots_of(member: bytes) -> int:
    """The slots of a lease, by its member in Redis."""
    return int(member.split(b":")[1])


def redis_keys(digest: str) -> tuple[str, str]:
    """The names of an account and its leases. The braces keep both on one node of a cluster.

    The number is the format's: what is stored under another one is left to expire.
    """
    name = f"cortex:account:3:{{{digest[:32]}}}"
    return name, f"{name}:open"


def period(name: Period, now: float) -> tuple[int, int]:
    """The start and end of the calendar period (UTC) that contains `now`, in seconds since the epoch."""
    return _period(name, int(now // HOUR_S))


@lru_cache(64)
def _period(name: Period, hour: int) -> tuple[int, int]:
    moment = datetime.fromtimestamp(hour * HOUR_S, UTC)
    match name:
        case "hour":
            start, end = moment, moment + timedelta(hours=1)
        case "day":
            start = moment.replace(hour=0)
            end = start + timedelta(days=1)
        case "month":
            start = moment.replace(day=1, hour=0)
            end = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp()), int(end.timestamp())

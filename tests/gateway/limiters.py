"""What tests of the limiter share: keys, limiters that end, a look into Redis, and one without Redis."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from ext.prefetch import Grant, Prefetch
from fleet.gateway.limits.headers import LimitExceededError, openai
from fleet.gateway.limits.limiter import Limiter
from fleet.key_limits import (
    Account,
    Admission,
    Bound,
    KeyLimits,
    Remainder,
    period,
    prefetch,
    read_account,
    redis_keys,
    release,
    reserve,
    settle,
)
from fleet.snapshot import KeyView

DIGEST = "d" * 64
ACCOUNT, LEASES = redis_keys(DIGEST)


def key(**limits) -> KeyView:
    return KeyView("laptop", DIGEST, limits=KeyLimits(**limits))


@asynccontextmanager
async def limiting(url, **options):
    limiter = Limiter(url, **{"timeout_s": 1.0, **options})
    try:
        yield limiter
    finally:
        await limiter.close()


async def until(condition, limit_s=15):
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


def spent(server) -> int:
    return read_account(server.client.get(ACCOUNT)).spent


async def until_let_in(limiter, mine, tokens) -> None:
    async with asyncio.timeout(10):
        while True:
            with suppress(LimitExceededError):
                await limiter.reserve(mine, tokens, openai)
                return
            await asyncio.sleep(0.05)


LEASE_S = 30.0


@dataclass
class Worker:
    """What the limiter does, at any moment, without Redis and event loop in between."""

    key: KeyView
    account: Account
    prefetch: Prefetch = field(default_factory=Prefetch)
    held: Grant | None = None
    until: float = 0.0  # when its time is over
    steps: int = 0  # that Redis would have been asked for

    def reserve(self, claim: Grant, now: float) -> tuple[Grant, Bound]:
        """The grant, and by which bound it was refused."""
        if (ahead := self.prefetch.admit(self.key, claim.tokens, now)) is not None:
            return ahead, ""
        self.prefetch.note(claim.tokens, now)
        return claim, self.ask(claim, now).refused_by

    def ask(self, claim: Grant, now: float) -> Admission:
        """Nothing is refused while something is held ahead."""
        if self.prefetch.is_spent(self.key, claim.tokens, now):
            self.give_back(now)
        admission = self.step(claim, now)
        if admission.refused_by and self.held is not None:
            self.give_back(now)
            admission = self.step(claim, now)
        return admission

    def step(self, claim: Grant, now: float) -> Admission:
        self.steps += 1
        limits = self.key.limits
        admission = reserve(self.account, limits, claim, now, LEASE_S)
        admitted = [] if admission.refused_by else [claim]
        wanted = self.prefetch.wanted(f"{claim.id}-ahead", claim.window, 1)
        if wanted and (held := prefetch(self.account, limits, wanted, now, LEASE_S, admitted)):
            self.held = held
            self.until = min(
                now + self.prefetch.hold_s(plenty=held.plenty), period(limits.budget_period, now)[1]
            )
            self.prefetch.hold(self.key, wanted, held, now, self.until, admitted)
        elif admitted:
            self.prefetch.let_run(claim, self.key)
        claim.at, claim.end = admission.at, admission.end
        claim.requests_reset_s = admission.requests_reset_s
        return admission

    def settle(self, grant: Grant, used: int, now: float) -> bool:
        """Whether it ended within what is held."""
        ahead = grant.end_with(used)
        if not ahead:
            self.steps += 1
            settle(self.account, self.key.limits, grant, used, now)
        return ahead

    def give_back(self, now: float) -> None:
        returned = self.prefetch.release()
        assert (returned is None) == (self.held is None)
        if returned is not None:
            self.steps += 1
            _, grant, requests, tokens, running = returned
            for number, one in enumerate(running):
                one.id = f"{grant.id}-{number}"
            remainder = Remainder(grant, requests, tokens, running)
            release(self.account, self.key.limits, remainder, now, LEASE_S)
        self.held = None

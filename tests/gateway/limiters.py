"""What tests of the limiter share: keys, limiters that end, a look into Redis, and one without Redis."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from fleet.gateway.limits.allowance import Allowance
from fleet.gateway.limits.headers import LimitExceededError, openai
from fleet.gateway.limits.limiter import Limiter
from fleet.limits import (
    Account,
    Grant,
    KeyLimits,
    Verdict,
    advance,
    close,
    read_account,
    redis_keys,
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
    allowance: Allowance = field(default_factory=Allowance)
    held: Grant | None = None
    steps: int = 0  # that Redis would have been asked for

    def reserve(self, claim: Grant, now: float) -> tuple[Verdict, bool]:
        """The verdict, and whether it was by what is held ahead."""
        self.allowance.note(claim.tokens, now)
        ahead = self.allowance.take(self.key, claim, now)
        verdict = ahead or self.ask(claim, now)
        if not verdict.refused_by:
            claim.at, claim.end = verdict.at, verdict.end
            self.allowance.open += 1
        return verdict, ahead is not None

    def ask(self, claim: Grant, now: float) -> Verdict:
        """Nothing is refused while something is held ahead."""
        if self.allowance.is_over(self.key, claim, now):
            self.give_back(now)
        verdict = self.step(claim, now)
        if verdict.refused_by and self.held is not None:
            self.give_back(now)
            verdict = self.step(claim, now)
        return verdict

    def step(self, claim: Grant, now: float) -> Verdict:
        self.steps += 1
        verdict = reserve(self.account, self.key.limits, claim, now, LEASE_S)
        if wish := self.allowance.wish(f"{claim.id}-ahead", claim.window, 1):
            self.held = advance(self.account, self.key.limits, wish, now, LEASE_S)
            if self.held is not None:
                self.allowance.hold(self.key, wish, self.held, now)
        return verdict

    def settle(self, grant: Grant, used: int, now: float) -> bool:
        """Whether it ended within what is held."""
        ahead = self.allowance.end(grant, used)
        if not ahead:
            self.steps += 1
            settle(self.account, self.key.limits, grant, used, now)
        return ahead

    def give_back(self, now: float) -> None:
        returned = self.allowance.give_back()
        assert (returned is None) == (self.held is None)
        if returned is not None:
            self.steps += 1
            close(self.account, self.key.limits, returned[1], now, LEASE_S)
        self.held = None

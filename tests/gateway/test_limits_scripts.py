"""The limits' scripts for Redis do what `fleet.limits` does, step by step."""

from __future__ import annotations

import random

import msgspec
import pytest

from fleet import limits as arithmetic
from fleet.gateway.limits_scripts import BOUNDS, RENEW, RESERVE, SETTLE, VERDICT
from fleet.limits import Account, Grant, KeyLimits, read_account, redis_keys

ACCOUNT, LEASES = redis_keys("d" * 64)


class Twin:
    """The same steps in Lua and in Python, at Redis's time."""

    def __init__(self, client, limits: KeyLimits) -> None:
        self.client, self.limits, self.account = client, limits, Account()
        self.scripts = {name: client.register_script(text) for name, text in SCRIPTS.items()}

    def run(self, name, *arguments) -> bytes:
        answer = self.scripts[name](keys=[ACCOUNT, LEASES], args=arguments)
        return answer[0] if answer else b""

    def reserve(self, claim: Grant, lease_s: float):
        limits = self.limits
        bounds = [
            limits.concurrent_requests,
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.budget_tokens,
        ]
        member = f"{claim.id}:{claim.tokens}:{claim.window}"
        answer = self.run("reserve", *("" if bound is None else bound for bound in bounds), lease_s, member)
        refused_by, wait_s, at, end, requests_s, tokens_s = VERDICT.unpack(answer)
        verdict = arithmetic.reserve(self.account, limits, claim, at, lease_s)
        assert msgspec.structs.asdict(verdict) == pytest.approx(
            {
                "refused_by": BOUNDS[refused_by],
                "wait_s": wait_s,
                "at": at,
                "end": end,
                "requests_reset_s": requests_s,
                "tokens_reset_s": tokens_s,
            },
            abs=1e-5,
        )
        return verdict

    def settle(self, grant: Grant, used: int, *, again: bool) -> None:
        limit = self.limits.tokens_per_minute or ""
        member = f"{grant.id}:{grant.tokens}:{grant.window}"
        self.run("settle", limit, member, repr(grant.at), repr(grant.end), used, int(again))
        arithmetic.settle(self.account, self.limits, grant, used, self.now(), again=again)

    def renew(self, grants, lease_s: float) -> None:
        self.run("renew", lease_s, *(f"{grant.id}:{grant.tokens}:{grant.window}" for grant in grants))
        arithmetic.renew(self.account, grants, self.now(), lease_s)

    def now(self) -> float:
        seconds, micros = self.client.time()
        return seconds + micros / 1e6

    def compare(self) -> None:
        stored = read_account(self.client.get(ACCOUNT))
        assert (stored.spent, stored.window) == (self.account.spent, self.account.window)
        members = {member.decode().split(":")[0] for member in self.client.zrange(LEASES, 0, -1)}
        assert members == set(self.account.leases)
        for name in ("born", "requests", "tokens"):  # our clock was read a little later than the script's
            assert getattr(stored, name) == pytest.approx(getattr(self.account, name), abs=0.5)
            setattr(self.account, name, getattr(stored, name))


SCRIPTS = {"reserve": RESERVE, "settle": SETTLE, "renew": RENEW}


@pytest.mark.parametrize("seed", range(12))
def test_the_scripts_do_what_the_arithmetic_does(redis_server, seed):
    redis_server.client.flushall()
    chance = random.Random(seed)  # noqa: S311
    limits = KeyLimits(
        requests_per_minute=chance.choice([None, 40, 10**6]),
        tokens_per_minute=chance.choice([None, 3000, 10**7]),
        concurrent_requests=chance.choice([None, 5]),
        budget_tokens=chance.choice([None, 4000, 10**9]),
    )
    twin, granted = Twin(redis_server.client, limits), []
    for number in range(80):
        match chance.randrange(5):
            case 0 if granted:
                grant = granted.pop(chance.randrange(len(granted)))
                twin.settle(grant, chance.randrange(300), again=chance.random() < 0.1)
            case 1 if granted:
                twin.renew(granted, 30)
            case 2 if granted and chance.random() < 0.3:
                granted.pop()  # its worker dies
            case _:
                window = 3600 * (number // 30)
                claim = Grant(f"r{number}", chance.randrange(200), window)
                verdict = twin.reserve(claim, chance.choice([0, 30]))
                if not verdict.refused_by:
                    granted.append(Grant(claim.id, claim.tokens, window, verdict.at, verdict.end))
        twin.compare()

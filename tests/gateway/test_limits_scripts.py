"""The limits' scripts for Redis do what `fleet.key_limits` does, step by step."""

from __future__ import annotations

import random

import msgspec
import pytest

from ext.prefetch import Grant
from fleet import key_limits as arithmetic
from fleet.gateway.limits import scripts
from fleet.key_limits import STORED, Account, KeyLimits, Remainder, read_account, redis_keys

ACCOUNT, LEASES = redis_keys("d" * 64)


class Twin:
    """The same steps in Lua and in Python, at Redis's time."""

    def __init__(self, client, limits: KeyLimits) -> None:
        self.client, self.limits, self.account = client, limits, Account()
        self.scripts = {name: client.register_script(text) for name, text in SCRIPTS.items()}

    def run(self, name, arguments) -> list[bytes]:
        return self.scripts[name](keys=[ACCOUNT, LEASES], args=arguments)

    def reserve(self, claim: Grant, wanted: Grant | None, lease_s: float):
        arguments = scripts.to_reserve(self.limits, wanted, lease_s, [claim.id])
        first, *rest = self.run("reserve", arguments)
        admission = scripts.admission(first)
        expected = arithmetic.reserve(self.account, self.limits, claim, admission.at, lease_s)
        assert msgspec.structs.asdict(admission) == pytest.approx(msgspec.structs.asdict(expected), abs=1e-5)
        admitted = [] if admission.refused_by else [claim]
        return admission, wanted and self.prefetch(wanted, admission.at, rest, lease_s, admitted)

    def prefetch(
        self, wanted: Grant, at: float, rest: list[bytes], lease_s: float, admitted: list[Grant]
    ) -> Grant | None:
        expected = arithmetic.prefetch(self.account, self.limits, wanted, at, lease_s, admitted)
        assert (expected is None) == (not rest)
        if expected is None:
            return None
        found = scripts.prefetched(rest[0], wanted)
        assert arithmetic.slots_of(found.id.encode()) == found.slots
        assert figures(found) == pytest.approx(figures(expected), abs=1e-5)
        self.account.leases[found.id] = self.account.leases.pop(expected.id)
        return found

    def settle(self, grant: Grant, used: int, *, again: bool) -> None:
        self.run("settle", scripts.to_settle(self.limits, [(grant, used, again, False)]))
        arithmetic.settle(self.account, self.limits, grant, used, self.now(), again=again)

    def release(self, remainder: Remainder, lease_s: float, *, again: bool) -> None:
        self.run("release", scripts.to_release(self.limits, remainder, lease_s, again=again))
        arithmetic.release(self.account, self.limits, remainder, self.now(), lease_s, again=again)

    def renew(self, grants, lease_s: float) -> None:
        self.run("renew", [lease_s, *(grant.id for grant in grants)])
        arithmetic.renew(self.account, grants, self.now(), lease_s)

    def now(self) -> float:
        seconds, micros = self.client.time()
        return seconds + micros / 1e6

    def compare(self) -> None:
        content = self.client.get(ACCOUNT)
        stored = read_account(content)
        assert (stored.spent, stored.window) == (self.account.spent, self.account.window)
        assert STORED.unpack(content)[-1] == self.account.open
        members = {member.decode() for member in self.client.zrange(LEASES, 0, -1)}
        assert members == set(self.account.leases)
        for name in ("born", "requests", "tokens"):  # our clock was read a little later than the script's
            assert getattr(stored, name) == pytest.approx(getattr(self.account, name), abs=0.5)
            setattr(self.account, name, getattr(stored, name))


def figures(grant: Grant) -> list[float]:
    whole = [grant.tokens, grant.window, grant.requests, grant.slots]
    return [*whole, grant.at, grant.end, grant.requests_end, grant.plenty]


SCRIPTS = {name: getattr(scripts, name.upper()) for name in ("reserve", "settle", "release", "renew")}


def grant(name: str, tokens: int, window: int, *, at: float = 0.0, end: float = 0.0) -> Grant:
    return Grant(scripts.member(name, 1, tokens, window), tokens, window, at, end)


def share_out(chance, prefetched: Grant, name: str) -> Remainder:
    """What may have become of it, when some of its requests have ended and some run."""
    requests, tokens, running = prefetched.requests, prefetched.tokens, []
    while requests and len(running) < min(3, prefetched.slots) and chance.random() < 0.8:
        part = chance.randrange(tokens + 1)
        running.append(
            grant(f"{name}-{len(running)}", part, prefetched.window, at=prefetched.at, end=prefetched.end)
        )
        requests, tokens = requests - 1, tokens - part
    return Remainder(prefetched, chance.randrange(requests + 1), chance.randrange(-20, tokens + 1), running)


@pytest.mark.parametrize("seed", range(24))
def test_the_scripts_do_what_the_arithmetic_does(redis_server, seed):
    redis_server.client.flushall()
    chance = random.Random(seed)  # noqa: S311
    limits = KeyLimits(
        requests_per_minute=chance.choice([None, 40, 600, 10**6]),
        tokens_per_minute=chance.choice([None, 3000, 10**7]),
        concurrent_requests=chance.choice([None, 5, 200]),
        budget_tokens=chance.choice([None, 4000, 10**9]),
    )
    twin, granted, ahead = Twin(redis_server.client, limits), [], []
    for number in range(120):
        match chance.randrange(8):
            case 0 if granted:
                gone = granted.pop(chance.randrange(len(granted)))
                twin.settle(gone, chance.randrange(300), again=chance.random() < 0.1)
            case 1 if granted:
                twin.renew(granted, 30)
            case 2 if granted and chance.random() < 0.3:
                granted.pop()  # its worker dies
            case 3 | 4 if ahead:
                returned = share_out(chance, ahead.pop(chance.randrange(len(ahead))), f"a{number}")
                for again in chance.choice([[False], [True], [False, True]]):
                    if chance.random() < 0.2:
                        twin.renew(returned.running, 30)
                    twin.release(returned, 30, again=again)
                granted += returned.running
            case _:
                window = 3600 * (number // 50)
                claim = grant(f"r{number}", chance.randrange(200), window)
                count, other = chance.choice([(30, window), (30, window), (8, window), (8, window + 3600)])
                amount = chance.randrange(2000)
                wanted = Grant(f"w{number}", amount, other, requests=count, slots=6)
                wanted = chance.choice([None, wanted])
                admission, prefetched = twin.reserve(claim, wanted, chance.choice([0, 30, 30]))
                if not admission.refused_by and not (prefetched and other == window):
                    claim.at, claim.end = admission.at, admission.end
                    granted.append(claim)
                if prefetched:
                    ahead.append(prefetched)
        twin.compare()


def test_an_account_that_redis_dropped_takes_its_leases_with_it(redis_server):
    """As eviction may: leases of unknown size would stay for ever in the count of what is open."""
    redis_server.client.flushall()
    twin = Twin(redis_server.client, KeyLimits(concurrent_requests=1))
    twin.reserve(grant("a", 10, 0), None, 30)
    redis_server.client.delete(ACCOUNT)
    twin.account = Account()
    admission, _ = twin.reserve(grant("b", 10, 0), None, 30)
    assert not admission.refused_by
    twin.compare()

"""Keys with many requests: what the limiter takes ahead of them, through a real Redis."""

from __future__ import annotations

import asyncio
import time

import pytest

from ext.prefetch import LONGER, remaining
from fleet.gateway.limits.headers import LimitExceededError, openai
from fleet.key_limits import in_use, read_account
from tests.gateway.limiters import ACCOUNT, LEASES, key, limiting, spent, until, until_let_in

MANY = {
    "requests_per_minute": 10**6,
    "tokens_per_minute": 10**8,
    "concurrent_requests": 10**4,
    "budget_tokens": 10**9,
}


async def rounds(limiter, mine, count) -> None:
    """One request after the other, of ten tokens each."""
    for _ in range(count):
        limiter.settle(await limiter.reserve(mine, 20, openai), 10)


def steps(server) -> int:
    calls = server.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})
    return calls["calls"]


def requests_in_use(server, limit) -> int:
    return in_use(read_account(server.client.get(ACCOUNT)).requests, limit, time.time())


async def test_a_busy_key_asks_redis_once_for_many(redis_server):
    redis_server.client.config_resetstat()
    mine = key(**MANY)
    async with limiting(redis_server.url) as limiter:
        await rounds(limiter, mine, 500)
        assert steps(redis_server) < 100
    assert spent(redis_server) == 5000
    assert redis_server.client.zcard(LEASES) == 0


async def test_a_prefetch_goes_back_by_itself(redis_server):
    mine = key(**{**MANY, "requests_per_minute": 60_000})
    async with limiting(redis_server.url, lease_s=0.3) as limiter:
        await rounds(limiter, mine, 100)
        running = [await limiter.reserve(mine, 20, openai) for _ in range(3)]
        await until(lambda: spent(redis_server) == 1060)
        await until(lambda: redis_server.client.zcard(LEASES) == 3)  # each by itself, and renewed
        await asyncio.sleep(0.5)
        assert redis_server.client.zcard(LEASES) == 3
        assert requests_in_use(redis_server, 60_000) <= 103
        for reservation in running:
            limiter.settle(reservation, 1)
        await until(lambda: spent(redis_server) == 1003)
        assert redis_server.client.zcard(LEASES) == 0


@pytest.mark.parametrize(("per_minute", "times"), [(10**6, LONGER), (100, 1)])
async def test_next_to_nothing_is_reserved_for_longer(redis_server, per_minute, times):
    mine = key(**{**MANY, "requests_per_minute": per_minute})
    async with limiting(redis_server.url, lease_s=100.0) as limiter:
        before = time.time()
        await limiter.reserve(mine, 20, openai)
        [(_, end)] = redis_server.client.zrange(LEASES, 0, -1, withscores=True)
        assert times * 100 <= end - before < times * 100 + 99


async def test_a_prefetch_is_not_in_the_way_of_other_workers_for_long(redis_server):
    mine = key(budget_tokens=10_000)
    async with limiting(redis_server.url) as one, limiting(redis_server.url) as other:
        await rounds(one, mine, 100)
        assert spent(redis_server) > 1000  # the rest of a prefetch
        await until_let_in(other, mine, 9000)
        with pytest.raises(LimitExceededError):
            await one.reserve(mine, 1, openai)


async def test_a_worker_is_refused_nothing_because_of_its_own_prefetch(redis_server):
    async with limiting(redis_server.url) as limiter:
        mine = key(budget_tokens=10_000)
        await rounds(limiter, mine, 100)
        await limiter.reserve(mine, 9000, openai)


async def test_redis_goes_and_comes_while_a_prefetch_is_held(redis_server):
    mine = key(**MANY)
    async with limiting(redis_server.url) as limiter:
        await rounds(limiter, mine, 100)
        running = [await limiter.reserve(mine, 20, openai) for _ in range(4)]
        redis_server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        limiter.settle(running.pop(), 10)
        await until(lambda: limiter.local)
        limiter.settle(running.pop(), 10)
        await until(lambda: not limiter.local)
        await until(lambda: spent(redis_server) == 1020 + 40)
        assert redis_server.client.zcard(LEASES) == 2
        for reservation in running:
            limiter.settle(reservation, 10)
    assert spent(redis_server) == 1040
    assert redis_server.client.zcard(LEASES) == 0


async def test_a_redis_that_forgot_everything_is_told_of_a_prefetch(redis_server):
    mine = key(**MANY)
    async with limiting(redis_server.url, lease_s=1) as limiter:
        await rounds(limiter, mine, 100)
        running = [await limiter.reserve(mine, 20, openai) for _ in range(4)]
        redis_server.client.flushdb()
        await until(lambda: redis_server.client.zcard(LEASES) == 4)
        for reservation in running:
            limiter.settle(reservation, 10)
    assert 40 <= spent(redis_server) <= 1040  # all but what had been settled before
    assert redis_server.client.zcard(LEASES) == 0


async def test_limits_that_are_lowered_hold_at_once(redis_server):
    async with limiting(redis_server.url) as limiter:
        await rounds(limiter, key(**MANY), 100)
        with pytest.raises(LimitExceededError):
            await rounds(limiter, key(budget_tokens=900), 1)


async def test_headers_show_what_is_left_with_and_without_a_prefetch(redis_server):
    async with limiting(redis_server.url) as limiter:
        mine, left = key(requests_per_minute=6000), []
        for _ in range(60):
            reservation = await limiter.reserve(mine, 10, openai)
            left.append(remaining(6000, reservation.requests_reset_s))
            limiter.settle(reservation, 10)
    drained = 100 * 15  # in as many seconds as the slowest machine takes
    assert all(5939 - number <= remaining <= 6000 - number + drained for number, remaining in enumerate(left))

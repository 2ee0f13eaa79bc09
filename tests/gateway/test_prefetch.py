"""Workers that take a key's limits ahead of its requests, against what they together let in."""

from __future__ import annotations

import math
import random

import pytest

from fleet.gateway.limits.prefetch import BUSY, HOLD_S, Prefetch
from fleet.key_limits import SHARE, Account, Grant, KeyLimits, in_use, prefetch, reserve
from fleet.snapshot import KeyView
from tests.gateway.limiters import LEASE_S, Worker

START, TICK_S = 1.8e9, 0.005


class Traffic:
    """Random requests to some workers at so many a second, until `seconds` are over."""

    def __init__(self, seed: int, limits: KeyLimits, *, workers: int, per_s: float, seconds: float) -> None:
        self.chance, self.limits = random.Random(seed), limits  # noqa: S311
        self.account = Account()
        key = KeyView("key", "d" * 64, limits=limits)
        self.workers = [Worker(key, self.account) for _ in range(workers)]
        self.open: list[tuple[float, Worker, Grant]] = []
        self.let_in: list[tuple[float, int]] = []  # when, tokens reserved
        self.refused: list[str] = []
        self.used = self.most_open = 0
        self.now = START
        while self.now < START + seconds:
            self.now += TICK_S
            self.tick(per_s * TICK_S)

    def tick(self, chance: float) -> None:
        for entry in [entry for entry in self.open if entry[0] <= self.now]:
            self.open.remove(entry)
            self.settle(*entry[1:])
        while self.chance.random() < chance:
            chance -= 1
            self.request(self.chance.choice(self.workers))
        self.most_open = max(self.most_open, len(self.open))
        reserved = sum(grant.tokens for *_, grant in self.open)
        assert len(self.open) <= (self.limits.concurrent_requests or math.inf)
        assert self.used + reserved <= (self.limits.budget_tokens or math.inf)

    def request(self, worker: Worker) -> None:
        tokens = self.chance.randrange(20, 60)
        if worker.held and self.now >= worker.held.at + HOLD_S:
            worker.give_back(self.now)
        grant = Grant(f"r{len(self.let_in)}-{len(self.refused)}", tokens, 0)
        admission, _ = worker.reserve(grant, self.now)
        if admission.refused_by:
            self.refused.append(admission.refused_by)
        else:
            self.let_in.append((self.now, tokens))
            self.open.append((self.now + self.chance.expovariate(1 / 0.1), worker, grant))

    def settle(self, worker: Worker, grant: Grant) -> None:
        used = self.chance.randrange(10, grant.tokens + 1)
        self.used += used
        worker.settle(grant, used, self.now)

    def end(self) -> None:
        for _, worker, grant in self.open:
            self.settle(worker, grant)
        self.open.clear()
        for worker in self.workers:
            worker.give_back(self.now)

    @property
    def steps(self) -> int:
        return sum(worker.steps for worker in self.workers)


def most_in_any_interval(events: list[tuple[float, int]], limit: int) -> float:
    """The largest count over `limit * (1 + t / 60)`, where a prefetch may be a moment old."""
    most, bucket, last = 0.0, 0.0, START
    for at, count in events:
        bucket = max(0.0, bucket - (at - last) * limit / 60) + count
        most, last = max(most, bucket), at
    return most / (limit * (1 + HOLD_S / 60))


@pytest.mark.parametrize("workers", [1, 3])
def test_far_from_every_limit_a_few_steps_admit_hundreds_and_all_is_accounted(workers):
    limits = KeyLimits(10**6, 10**8, 10**5, 10**9)
    traffic = Traffic(1, limits, workers=workers, per_s=300, seconds=5)
    assert len(traffic.let_in) > 1000
    assert not traffic.refused
    assert traffic.steps < len(traffic.let_in) / 4
    traffic.end()
    assert traffic.account.spent == traffic.used
    assert not traffic.account.leases


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_requests_a_minute_hold(workers, seed):
    limits = KeyLimits(requests_per_minute=3000)
    traffic = Traffic(seed, limits, workers=workers, per_s=180, seconds=40)
    assert set(traffic.refused) == {"requests"}
    assert traffic.steps < len(traffic.let_in) + len(traffic.refused)
    passed = [(at, 1) for at, _ in traffic.let_in]
    assert most_in_any_interval(passed, 3000) <= 1
    # All of it may be used: 3000 at once, and 50 a second.
    assert len(passed) >= (3000 + 50 * 40) * (1 - workers / SHARE)
    traffic.end()
    bucket = in_use(traffic.account.requests, 3000, traffic.now)
    assert bucket == pytest.approx(len(passed) - 50 * (traffic.now - traffic.let_in[0][0]), abs=2)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_tokens_a_minute_hold(workers, seed):
    limits = KeyLimits(tokens_per_minute=60_000)
    traffic = Traffic(seed, limits, workers=workers, per_s=120, seconds=40)
    assert set(traffic.refused) == {"tokens"}
    traffic.end()
    rate = 60_000 / 60 * (traffic.now - START)
    assert traffic.used <= 60_000 * (1 + HOLD_S / 60) + rate
    assert traffic.used >= (60_000 + rate) * (1 - 2 * workers / SHARE)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_as_many_requests_run_at_once_as_may(workers, seed):
    traffic = Traffic(seed, KeyLimits(concurrent_requests=1000), workers=workers, per_s=150, seconds=5)
    assert not traffic.refused
    assert traffic.steps < len(traffic.let_in)
    tight = Traffic(seed, KeyLimits(concurrent_requests=40), workers=workers, per_s=150, seconds=5)
    assert not tight.refused  # fifteen run, rarely thirty: what is held ahead is in nobody's way
    crowded = Traffic(seed, KeyLimits(concurrent_requests=300), workers=workers, per_s=3200, seconds=2)
    assert set(crowded.refused) == {"concurrent"}
    assert crowded.most_open >= 300 * (1 - (workers - 1) / SHARE)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_budget_is_spent_and_no_token_more(workers, seed):
    traffic = Traffic(seed, KeyLimits(budget_tokens=50_000), workers=workers, per_s=300, seconds=20)
    assert set(traffic.refused) == {"budget"}
    traffic.end()
    assert traffic.account.spent == traffic.used
    assert 50_000 - 60 <= traffic.used <= 50_000


def test_a_key_with_few_requests_gets_no_prefetch():
    traffic = Traffic(3, KeyLimits(10**6, 10**8, 10**5, 10**9), workers=1, per_s=BUSY / 4, seconds=20)
    assert all(worker.held is None for worker in traffic.workers)
    assert traffic.steps == 2 * len(traffic.let_in) - len(traffic.open)


def test_headers_count_down_by_one_with_and_without_a_prefetch():
    key, account = KeyView("key", "d" * 64, limits=KeyLimits(requests_per_minute=6000)), Account()
    worker, used = Worker(key, account), []
    for number in range(40):
        admission, _ = worker.reserve(Grant(f"r{number}", 10, 0), START)
        used.append(round(admission.requests_reset_s * 100))
    assert used == list(range(1, 41))


def test_another_period_other_limits_or_a_clock_set_back_end_a_prefetch():
    limits = KeyLimits(requests_per_minute=6000, budget_tokens=10**6)
    key, claim = KeyView("key", "d" * 64, limits=limits), Grant("r", 10, 3600)
    prefetch = Prefetch()
    held = Grant("a", 100, 3600, START, START, START, requests=5, slots=5)
    prefetch.hold(key, held, held, START)
    assert not prefetch.is_spent(key, claim, START)
    assert not prefetch.is_spent(KeyView("key", "d" * 64, limits=limits), claim, START)
    other = KeyView("key", "d" * 64, limits=KeyLimits(requests_per_minute=5))
    assert prefetch.is_spent(other, claim, START)
    assert prefetch.is_spent(key, Grant("r", 10, 7200), START)
    assert prefetch.is_spent(key, Grant("r", 101, 3600), START)
    assert prefetch.is_spent(key, claim, START - 5)
    assert prefetch.is_spent(key, claim, START + HOLD_S)
    assert prefetch.take(other, claim, START) is None


def test_tokens_that_a_request_did_not_use_are_there_for_the_next():
    key, prefetch = KeyView("key", "d" * 64, limits=KeyLimits(tokens_per_minute=6000)), Prefetch()
    held = Grant("a", 100, 0, START, START + 1, START, requests=9, slots=9)
    prefetch.hold(key, held, held, START)
    first = Grant("r0", 60, 0)
    assert prefetch.take(key, first, START)
    assert not prefetch.take(key, Grant("r1", 41, 0), START)
    assert prefetch.end(first, 50)
    assert not prefetch.take(key, Grant("r2", 51, 0), START)
    assert prefetch.take(key, Grant("r3", 30, 0), START)
    assert prefetch.take(key, Grant("r4", 20, 0), START)


def test_requests_that_run_on_give_back_as_if_each_had_been_reserved_by_itself():
    """After a minute and half a prefetch's time, the bucket still holds what was taken last of it."""
    key, account = KeyView("key", "d" * 64, limits=KeyLimits(tokens_per_minute=6000)), Account()
    assert not reserve(account, key.limits, Grant("before", 5000, 0), START, LEASE_S).refused_by
    wanted = Grant("a", 31, 0, requests=9, slots=9)
    held = prefetch(account, key.limits, wanted, START, LEASE_S)
    ahead, running = Prefetch(), [Grant("r0", 10, 0), Grant("r1", 10, 0)]
    ahead.hold(key, held, held, START)
    for claim in running:
        ahead.take(key, claim, START)
    _, returned = ahead.release()
    assert (returned.tokens, returned.requests) == (11, 7)
    assert [one.at for one in running] == [START, START]
    # 100 tokens a second: 5000 before, then ten for each of the two, then eleven that are left.
    assert [one.end - START for one in running] == pytest.approx([50.1, 50.2], abs=1e-6)

"""Workers that take a key's limits ahead of its requests, against what they together let in."""

from __future__ import annotations

import math
import random

import pytest

from ext.prefetch import BUSY, LONG_HOLD_S, LONGER, Grant, Prefetch
from fleet.key_limits import SHARE, Account, KeyLimits, in_use, prefetch, reserve
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
        if worker.held and self.now >= worker.until:
            worker.give_back(self.now)
        grant = Grant(f"r{len(self.let_in)}-{len(self.refused)}", tokens, 0)
        grant, refused_by = worker.reserve(grant, self.now)
        if refused_by:
            self.refused.append(refused_by)
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
    return most / (limit * (1 + LONG_HOLD_S / 60))


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
    assert traffic.used <= 60_000 * (1 + LONG_HOLD_S / 60) + rate
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


@pytest.mark.parametrize("per_s", [0.5, 1, BUSY / 2])
def test_a_key_with_few_requests_asks_seldom_too(per_s):
    limits = KeyLimits(10**6, 10**8, 10**5, 10**9)
    traffic = Traffic(3, limits, workers=1, per_s=per_s, seconds=200)
    assert traffic.steps <= 2 * 200 / (LONGER * LONG_HOLD_S) + len(traffic.let_in) / 3
    traffic.end()
    assert traffic.account.spent == traffic.used
    assert not traffic.account.leases


def test_a_single_request_takes_no_more_steps_than_its_reservation_and_its_settlement():
    traffic = Traffic(3, KeyLimits(10**6, 10**8, 10**5, 10**9), workers=1, per_s=1, seconds=0)
    traffic.request(traffic.workers[0])
    traffic.end()
    assert traffic.steps == 2
    assert traffic.account.spent == traffic.used


@pytest.mark.parametrize(
    "limits", [KeyLimits(60), KeyLimits(tokens_per_minute=3000), KeyLimits(concurrent_requests=4)]
)
def test_near_a_limit_nothing_is_held_that_no_request_could_use(limits):
    traffic = Traffic(5, limits, workers=2, per_s=3, seconds=60)
    for worker in traffic.workers:
        assert worker.held is None or worker.held.tokens >= 20
    assert traffic.steps <= 2 * (len(traffic.let_in) + len(traffic.refused)) + 60


def test_headers_count_down_by_one_with_and_without_a_prefetch():
    key, account = KeyView("key", "d" * 64, limits=KeyLimits(requests_per_minute=6000)), Account()
    worker, used = Worker(key, account), []
    for number in range(40):
        grant, _ = worker.reserve(Grant(f"r{number}", 10, 0), START)
        used.append(round(grant.requests_reset_s * 100))
    assert used == list(range(1, 41))


def test_what_is_held_is_returned_as_if_each_that_runs_had_been_reserved_by_itself():
    """After a minute and half a prefetch's time, the bucket still holds what was taken last of it."""
    key, account = KeyView("key", "d" * 64, limits=KeyLimits(tokens_per_minute=6000)), Account()
    assert not reserve(account, key.limits, Grant("before", 5000, 0), START, LEASE_S).refused_by
    wanted = Grant("a", 31, 0, requests=9, slots=9)
    held = prefetch(account, key.limits, wanted, START, LEASE_S)
    ahead = Prefetch()
    ahead.hold(key, held, held, START, START + 1, [])
    running = [ahead.admit(key, 10, START) for _ in range(2)]
    _, whole, requests, tokens, left = ahead.release()
    assert (whole, requests, tokens, left) == (held, 7, 11, running)
    assert [one.at for one in running] == [START, START]
    # 100 tokens a second: 5000 before, then ten for each of the two, then eleven that are left.
    assert [one.end - START for one in running] == pytest.approx([50.1, 50.2], abs=1e-6)

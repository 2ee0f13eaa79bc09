"""The keys' limits against a model that keeps every request there ever was and counts them anew each time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ext.prefetch import BUSY, LONG_HOLD_S, Grant
from fleet.key_limits import Account, KeyLimits, period, renew, reserve, settle
from fleet.snapshot import KeyView
from tests.gateway.limiters import LEASE_S, Worker

START = datetime(2026, 3, 31, 23, 50, tzinfo=UTC).timestamp()  # ten minutes before a month ends
CLOSE = 1e-4  # of a token: arrival times are doubles of seconds since 1970


@dataclass
class Past:
    """One request that was let in."""

    grant: Grant
    let_in: float
    lease_until: float
    used: int | None = None  # None until it is settled
    crashed: bool = False
    late: bool = False  # its worker stood still until its lease had run out, and came back
    ahead: bool = False  # its worker let it in by a prefetch, which it still holds

    def counts(self, now: float) -> int:
        """What it takes of its period's budget by itself."""
        if self.ahead:
            return 0
        if self.used is not None:
            return self.used
        return 0 if self.lease_until <= now else self.grant.tokens


limits_of_keys = st.builds(
    KeyLimits,
    requests_per_minute=st.none() | st.integers(1, 20) | st.integers(300, 3000),
    tokens_per_minute=st.none() | st.integers(100, 2000) | st.integers(10**4, 10**6),
    concurrent_requests=st.none() | st.integers(1, 4) | st.integers(50, 500),
    budget_tokens=st.none() | st.integers(100, 5000) | st.integers(10**4, 10**6),
    budget_period=st.sampled_from(["hour", "day", "month"]),
)


class CheckedWorker(Worker):
    """Its machine looks at each step."""

    def step(self, claim, now):
        slots, spent = self.machine.slots(), self.machine.spent(claim.window)
        admission = super().step(claim, now)
        self.machine.check(admission, claim, slots, spent)
        return admission

    def give_back(self, now):
        super().give_back(now)
        self.machine.gave_back()


class LimitsMachine(RuleBasedStateMachine):
    """One worker of several that share the account."""

    @initialize(limits=limits_of_keys)
    def begin(self, limits):
        self.limits, self.account, self.now = limits, Account(), START
        self.worker = CheckedWorker(KeyView("key", "d" * 64, limits=limits), self.account)
        self.worker.machine = self
        self.past: list[Past] = []

    def open(self):
        return [entry for entry in self.past if entry.used is None and not entry.crashed]

    def live(self):
        """Those that have a lease of their own."""
        running = [entry for entry in self.past if entry.used is None and not entry.ahead]
        return [entry for entry in running if entry.lease_until > self.now]

    def slots(self):
        return len(self.live()) + (self.worker.held.slots if self.worker.held else 0)

    def spent(self, window):
        spent = sum(entry.counts(self.now) for entry in self.past if entry.grant.window == window)
        held = self.worker.held
        return spent + (held.tokens if held is not None and held.window == window else 0)

    @rule(tokens=st.integers(0, 2000))
    def reserve(self, tokens):
        if not self.limits.never_fits(tokens):
            self.let_in(tokens)

    @rule(tokens=st.integers(0, 20))
    def burst(self, tokens):
        for _ in range(BUSY + 2):
            self.reserve(tokens)

    def let_in(self, tokens):
        window, _ = period(self.limits.budget_period, self.now)
        claim = Grant(f"r{len(self.past)}", tokens, window)
        grant, refused_by = self.worker.reserve(claim, self.now)
        if not refused_by:
            self.past.append(Past(grant, self.now, self.now + LEASE_S, ahead=not grant.id))

    def check(self, admission, claim, slots, spent):
        """Refused for the reason that there is, and let in otherwise."""
        full = slots >= (self.limits.concurrent_requests or math.inf)
        dear = spent + claim.tokens > (self.limits.budget_tokens or math.inf)
        assert (admission.refused_by == "concurrent") == full
        if admission.refused_by == "budget":
            assert dear
        if not admission.refused_by:
            assert not dear
        if admission.refused_by in {"requests", "tokens"}:
            assert 0 < admission.wait_s <= 60 * (1 + self.overrun() / (self.limits.tokens_per_minute or 1))

    @rule()
    def give_back(self):
        self.worker.give_back(self.now)

    def gave_back(self):
        for entry in self.past:
            if entry.ahead:
                entry.ahead, entry.lease_until = False, self.now + LEASE_S

    @rule(data=st.data(), share=st.floats(0, 1.5))
    def settle(self, data, share):
        if entry := self.pick(data):
            self.end(entry, int(entry.grant.tokens * share))

    @rule(data=st.data())
    def release(self, data):
        if entry := self.pick(data):
            self.end(entry, 0)

    def end(self, entry, used):
        known = entry.grant.id in self.account.leases
        assert self.worker.settle(entry.grant, used, self.now) == entry.ahead
        if not entry.ahead:
            assert known or entry.lease_until <= self.now
            entry.late |= not known
        entry.used = used

    @rule(data=st.data())
    def crash(self, data):
        """Of another worker: this one goes on."""
        entry = self.pick(data)
        if entry and not entry.ahead:
            entry.crashed = True

    def pick(self, data):
        return data.draw(st.sampled_from(self.open())) if self.open() else None

    @rule()
    def renew(self):
        own = [entry for entry in self.open() if not entry.ahead]
        renew(self.account, [entry.grant for entry in own], self.now, LEASE_S)
        for entry in own:
            entry.late |= entry.lease_until <= self.now
            entry.lease_until = self.now + LEASE_S

    @rule(seconds=st.sampled_from([0.01, 0.3, 1, 7, 29, 31, 90, 700]))
    def pass_time(self, seconds):
        self.now += seconds
        if self.now >= self.worker.until:
            self.give_back()

    def overrun(self):
        return sum(max(0, (entry.used or 0) - entry.grant.tokens) for entry in self.past)

    @invariant()
    def rates_hold_over_every_interval(self):
        for what, limit in (
            (lambda entry: 1, self.limits.requests_per_minute),
            (self.least_charge, self.limits.tokens_per_minute),
        ):
            if limit is None:
                continue
            for first, entry in enumerate(self.past):
                total = 0
                for later in self.past[first:]:
                    total += what(later)
                    # It may have been taken so much earlier.
                    interval = later.let_in - entry.let_in + LONG_HOLD_S
                    assert total <= limit * (1 + interval / 60) + CLOSE

    def least_charge(self, entry):
        """Never more than was reserved: what a request used beyond that is charged later."""
        return min(entry.grant.tokens, entry.grant.tokens if entry.used is None else entry.used)

    @invariant()
    def nothing_is_over_the_bounds(self):
        if self.limits.concurrent_requests is not None:
            in_time = [entry for entry in self.open() if entry.ahead or entry in self.live()]
            on_time = [entry for entry in in_time if not entry.late]
            assert len(on_time) <= self.limits.concurrent_requests
        if self.limits.budget_tokens is not None:
            for window in {entry.grant.window for entry in self.past}:
                late = sum(entry.counts(self.now) for entry in self.past if entry.late)
                assert self.spent(window) <= self.limits.budget_tokens + self.overrun() + late

    @invariant()
    def budget_is_what_was_used_and_is_reserved(self):
        self.account.expire(self.now)
        assert self.account.spent == self.spent(self.account.window)

    def teardown(self):
        """Nothing leaks: when all is over, everything may be used again."""
        if not hasattr(self, "account"):
            return
        self.give_back()
        for entry in self.open()[::2]:  # the others' worker was killed
            settle(self.account, self.limits, entry.grant, 0, self.now)
        self.now = max(self.now + 32 * 86_400, self.account.tokens, self.account.requests)
        window, _ = period(self.limits.budget_period, self.now)
        most = min(self.limits.tokens_per_minute or 10**6, self.limits.budget_tokens or 10**6)
        admission = reserve(self.account, self.limits, Grant("last", most, window), self.now, LEASE_S)
        assert admission.refused_by == ""
        assert set(self.account.leases) == {"last"}


LimitsMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestLimits = LimitsMachine.TestCase


def test_the_wait_in_a_refusal_is_enough_and_not_too_long():
    limits, account = KeyLimits(tokens_per_minute=600), Account()
    for index in range(3):
        reserve(account, limits, Grant(f"{index}", 200, 0), START, LEASE_S)
    refused = reserve(account, limits, Grant("3", 100, 0), START, LEASE_S)
    assert (refused.refused_by, round(refused.wait_s, 3)) == ("tokens", 10)
    soon = reserve(account, limits, Grant("3", 100, 0), START + refused.wait_s - 0.1, LEASE_S)
    assert soon.refused_by == "tokens"
    assert not reserve(account, limits, Grant("3", 100, 0), START + refused.wait_s + 0.01, LEASE_S).refused_by


def test_tokens_that_have_drained_away_are_not_given_back():
    """A stream of ten minutes that used nothing of what it reserved must not open a second bucket."""
    limits, account = KeyLimits(tokens_per_minute=600), Account()
    first = Grant("old", 600, 0)
    admission = reserve(account, limits, first, START, math.inf)
    later = START + 600
    assert not reserve(account, limits, Grant("full", 600, 0), later, LEASE_S).refused_by
    first.at, first.end = admission.at, admission.end
    settle(account, limits, first, 0, later)
    assert reserve(account, limits, Grant("more", 10, 0), later, LEASE_S).refused_by == "tokens"


def test_a_lost_account_is_told_of_open_grants_and_gives_nothing_back_for_them():
    limits = KeyLimits(tokens_per_minute=600, concurrent_requests=1, budget_tokens=1000)
    window, _ = period("month", START)
    open_one = Grant("a", 500, window, at=START - 5, end=START + 45)
    account = Account()
    renew(account, [open_one], START, LEASE_S)
    assert account.spent == 500
    claim = Grant("b", 100, window)
    assert reserve(account, limits, claim, START, LEASE_S).refused_by == "concurrent"
    settle(account, limits, open_one, 30, START)
    assert (account.spent, account.tokens) == (30, 0)


def test_a_settlement_that_may_have_arrived_is_charged_once():
    limits, account = KeyLimits(budget_tokens=1000), Account()
    window, _ = period("month", START)
    grant = Grant("a", 500, window)
    reserve(account, limits, grant, START, LEASE_S)
    settle(account, limits, grant, 70, START)
    settle(account, limits, grant, 70, START, again=True)
    assert account.spent == 70


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("hour", "2026-03-31T23:00", "2026-04-01T00:00"),
        ("day", "2026-03-31T00:00", "2026-04-01T00:00"),
        ("month", "2026-03-01T00:00", "2026-04-01T00:00"),
    ],
)
def test_periods_are_those_of_the_calendar(name, start, end):
    expected = tuple(datetime.fromisoformat(f"{text}+00:00").timestamp() for text in (start, end))
    assert period(name, START) == expected


def test_the_next_request_waits_for_tokens_used_beyond_the_reservation():
    limits, account = KeyLimits(tokens_per_minute=600), Account()
    admission = reserve(account, limits, Grant("a", 10, 0), START, LEASE_S)
    settle(account, limits, Grant("a", 10, 0, at=START, end=admission.end), 1200, START)
    refused = reserve(account, limits, Grant("b", 10, 0), START, LEASE_S)
    assert (refused.refused_by, round(refused.wait_s)) == ("tokens", 61)

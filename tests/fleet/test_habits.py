"""Models that a key uses at the same hour of many days are read before it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.test import override_settings

from fleet.models import UsageRollup
from fleet.services import habits, polling

HOUR = datetime(2026, 11, 20, 9, tzinfo=UTC)
SHORTLY_BEFORE = HOUR - timedelta(minutes=8)
SUMS = dict.fromkeys(
    ("errors", "cancelled", "rejected", "cold", "prompt_tokens", "completion_tokens", "cached_tokens"), 0
)


def used(days, *, model="m", key="office-1", hour=HOUR):
    for day in days:
        UsageRollup.objects.create(
            hour=hour - timedelta(days=day), model=model, key=key, dialect="openai", requests=3,
            latency_s=1, ttft_s=1, timed=3, **SUMS,
        )  # fmt: skip


def asked(node):
    return [model for path, model in node.asked if path == "/models/read-ahead"]


@pytest.fixture
def node(fleet):
    node = fleet.node("a", devices=[2000])
    fleet.model("m", vram_mb=1500)
    polling.poll()
    with override_settings(READ_AHEAD_KEYS=["office-*"]):
        yield node


def test_a_habit_is_followed_shortly_before_its_hour(node):
    used([1, 3, 7])
    assert habits.follow(SHORTLY_BEFORE) == 1
    assert asked(node) == ["m"]


@pytest.mark.parametrize("now", [HOUR - timedelta(minutes=20), HOUR, HOUR + timedelta(minutes=30)])
def test_not_at_other_times(node, now):
    used([1, 3, 7])
    assert habits.follow(now) == 0
    assert asked(node) == []


def test_twice_or_by_another_key_is_no_habit(node):
    used([1, 3])
    used([1, 2, 3], key="guest")
    used([2, 4, 6], hour=HOUR + timedelta(hours=1))
    assert habits.follow(SHORTLY_BEFORE) == 0


def test_no_key_is_watched_unless_it_is_named(node):
    used([1, 3, 7])
    with override_settings(READ_AHEAD_KEYS=[]):
        assert habits.follow(SHORTLY_BEFORE) == 0


@pytest.mark.parametrize("state", ["loaded", "asleep"])
def test_what_is_in_memory_is_not_read(node, state):
    used([1, 3, 7])
    node.has("m", state=state)
    polling.poll()
    assert habits.follow(SHORTLY_BEFORE) == 0
    assert asked(node) == []

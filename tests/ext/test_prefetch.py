"""`ext.prefetch`: what is held admits requests, until it is spent, and is given back whole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fleet.gateway.limits.headers import anthropic, openai
from fleet.key_limits import KeyLimits
from tests.ext.conftest import variants

START = 1.8e9


@pytest.fixture(params=variants("prefetch"))
def ext(request):
    return request.param


def key(**limits):
    return SimpleNamespace(limits=KeyLimits(**limits))


def holding(ext, mine, *, tokens=100, requests=5, slots=5, hold_s=1.0):
    prefetch = ext.Prefetch()
    given = ext.Grant("a", tokens, 3600, START, START + 1, START, requests, slots)
    prefetch.hold(mine, given, given, START, START + hold_s, [])
    return prefetch


def test_nothing_held_admits_nothing(ext):
    prefetch = ext.Prefetch()
    assert prefetch.admit(key(), 1, START) is None
    assert not prefetch.is_spent(key(), 1, START)
    assert prefetch.release() is None


def test_other_limits_too_many_tokens_or_another_time_end_a_prefetch(ext):
    mine = key(requests_per_minute=6000, budget_tokens=10**6)
    prefetch = holding(ext, mine)
    assert not prefetch.is_spent(mine, 10, START)
    assert not prefetch.is_spent(key(requests_per_minute=6000, budget_tokens=10**6), 10, START)
    for other in ((key(requests_per_minute=5), 10, START), (mine, 101, START), (mine, 10, START - 5)):
        assert prefetch.is_spent(*other)
        assert prefetch.admit(*other) is None
    assert prefetch.is_spent(mine, 10, START + 1)


def test_tokens_that_a_request_did_not_use_are_there_for_the_next(ext):
    mine = key(tokens_per_minute=6000)
    prefetch = holding(ext, mine, requests=9, slots=9)
    first = prefetch.admit(mine, 60, START)
    assert prefetch.admit(mine, 41, START) is None
    assert first.end_with(50)
    assert prefetch.admit(mine, 51, START) is None
    assert prefetch.admit(mine, 30, START)
    assert prefetch.admit(mine, 20, START)


def test_slots_come_back_and_requests_do_not(ext):
    mine = key(concurrent_requests=100)
    prefetch = holding(ext, mine, requests=3, slots=1)
    for _ in range(3):
        grant = prefetch.admit(mine, 1, START)
        assert prefetch.admit(mine, 1, START) is None
        assert grant.end_with(1)
    assert prefetch.admit(mine, 1, START) is None
    assert prefetch.is_spent(mine, 1, START)
    _, _, requests, tokens, running = prefetch.release()
    assert (requests, tokens, running) == (0, 97, [])


def test_a_request_ends_by_itself_once_what_admitted_it_is_given_back(ext):
    mine = key(budget_tokens=1000)
    prefetch = holding(ext, mine)
    grant = prefetch.admit(mine, 10, START)
    assert grant.id == ""
    assert prefetch.release()[-1] == [grant]
    grant.id = "r:1:10:3600"
    assert not grant.end_with(5)
    assert prefetch.open == 0


def test_requests_that_were_asked_for_together_run_by_what_came_with_them(ext):
    mine = key(budget_tokens=1000)
    prefetch, asked = ext.Prefetch(), ext.Grant("r:1:30:3600", 30, 3600)
    wanted = ext.Grant("a", 100, 3600, requests=8, slots=2)
    given = ext.Grant("a", 130, 3600, START, requests=9, slots=3)
    prefetch.hold(mine, wanted, given, START, START + 1, [asked])
    assert (asked.id, prefetch.open, asked.key) == ("", 1, mine)
    assert not prefetch.wanted_again
    assert prefetch.admit(mine, 100, START)
    assert prefetch.wanted_again
    assert prefetch.admit(mine, 1, START) is None
    assert asked.end_with(30)
    assert prefetch.release()[2:4] == (7, 0)


def test_a_busy_key_gets_twice_of_what_came_lately_and_another_few(ext):
    prefetch = ext.Prefetch()
    prefetch.note(50, START)
    few = prefetch.wanted("a", 0, 1)
    assert (few.requests, few.tokens, few.slots) == (ext.FEW, ext.FEW * 50, 2)
    assert prefetch.hold_s(plenty=False) == ext.LONG_HOLD_S
    assert prefetch.hold_s(plenty=True) == ext.LONGER * ext.LONG_HOLD_S
    for _ in range(19):
        prefetch.note(50, START + 0.5)
    many = prefetch.wanted("a", 0, 3)
    assert (many.requests, many.tokens, many.slots) == (40, 2000, 6)
    assert prefetch.hold_s(plenty=True) == ext.HOLD_S
    prefetch.note(50, START + 1)
    assert prefetch.wanted("a", 0, 1).requests == 40  # of the second before
    prefetch.note(50, START + 9)
    assert prefetch.wanted("a", 0, 1).requests == ext.FEW
    prefetch.asked = True
    assert prefetch.wanted("a", 0, 1) is None


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0ms"), (0.0161, "17ms"), (0.9999, "1000ms"), (1, "1s"), (8.64, "8.64s"), (9.051, "9.05s"),
     (12.3, "12.3s"), (59.5, "59.5s"), (60, "1m0s"), (61.2, "1m2s"), (3600, "1h0m0s"), (7322, "2h2m2s")],
)  # fmt: skip
def test_durations_are_written_as_openai_does(ext, seconds, written):
    assert ext.duration(seconds) == written


@pytest.mark.parametrize("limits", [{}, {"requests_per_minute": 60}, {"tokens_per_minute": 6000},
                                    {"requests_per_minute": 60, "tokens_per_minute": 10**9}])  # fmt: skip
def test_head_lines_say_what_headers_say(ext, limits):
    grant = ext.Grant("", 1, 0)
    grant.requests_reset_s, grant.tokens_reset_s = 12.3456, 0.25
    mine = KeyLimits(**limits)
    grant.at = 1_700_000_000.25
    for lines, headers in ((ext.head_lines, openai), (ext.anthropic_lines, anthropic)):
        said = lines(grant, mine).decode()
        assert said == "".join(f"{name}: {value}\r\n" for name, value in headers(mine, grant).items())


def test_moments_are_written_as_anthropic_does(ext):
    grant = ext.Grant("", 1, 0, 1_700_000_000.25)
    grant.requests_reset_s = 59.5
    lines = ext.anthropic_lines(grant, KeyLimits(requests_per_minute=60)).decode().splitlines()
    assert lines[2] == "anthropic-ratelimit-requests-reset: 2023-11-14T22:14:20Z"

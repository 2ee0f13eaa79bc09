from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.agent.context_budget import (
    ELIDED,
    cut_for_summary,
    elide,
    estimate,
    prompt_budget,
    summary_request,
)
from helexa_acp.provider.types import Message, Role, TextPart, ToolCall


def user(text):
    return Message.of(Role.USER, text)


def round_of(number, size=2000):
    call = ToolCall(f"c{number}", "read", "{}")
    result = Message(Role.TOOL, (TextPart("r" * size),), tool_call_id=call.id)
    return [Message(Role.ASSISTANT, (TextPart("p" * size),), (call,)), result]


HISTORY = [Message.of(Role.SYSTEM, "s" * 3000), user("u" * 3000), *(m for n in range(6) for m in round_of(n))]


@pytest.mark.parametrize(
    ("window", "max_tokens", "expected"), [(32768, 8192, 24064), (32768, None, 30208), (1000, 8192, 0)]
)
def test_the_prompt_budget_leaves_room_for_the_reply(window, max_tokens, expected):
    assert prompt_budget(window, max_tokens) == expected


def test_estimates_grow_with_content():
    assert estimate([user("x" * 10_000)]) > 100 * estimate([user("xx")])


def test_nothing_is_elided_while_it_fits():
    assert elide(HISTORY, 1_000_000) == HISTORY


def test_old_results_are_elided_before_prose_and_users_never():
    some = elide(HISTORY, estimate(HISTORY) - 1000)
    assert some[3].text.startswith(ELIDED[:20])
    assert some[2] == HISTORY[2]
    everything = elide(HISTORY, 0)
    assert everything[0] == HISTORY[0]
    assert everything[1] == HISTORY[1]
    assert everything[2].text.startswith(ELIDED[:20])
    assert everything[-4:] == HISTORY[-4:]
    assert [m.tool_call_id for m in everything] == [m.tool_call_id for m in HISTORY]
    assert [m.calls for m in everything] == [m.calls for m in HISTORY]


def test_short_results_are_not_elided():
    short = [user("x"), *round_of(1, 20), *round_of(2), *round_of(3)]
    assert elide(short, 0)[2].text == "r" * 20


@given(st.integers(0, 20_000), st.integers(0, 12))
def test_the_cut_never_separates_a_call_from_its_result(tokens, size):
    history = HISTORY[1 : 2 + size]
    cut = cut_for_summary(history, tokens)
    assert 0 <= cut <= len(history)
    if cut < len(history):
        assert cut == 0 or history[cut].role is not Role.TOOL
        assert estimate(history[cut:]) <= tokens * 0.3


@given(st.integers(0, 5000))
def test_the_request_for_a_summary_fits(tokens):
    request = summary_request("m", HISTORY * 20, tokens)
    assert estimate(request.messages) <= max(tokens, 2000)
    assert not request.tools

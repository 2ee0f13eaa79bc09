"""Budgets of sessions, the rate limits of endpoints, and what the user is told while a server is busy."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import httpx
import pytest
from acp_testing.inprocess import Conversation
from acp_testing.process import FULL_CLIENT, HOLD, choose, prompt
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.agent.budget_command import parse
from helexa_acp.budget import Budget
from helexa_acp.config import ConfigError, load_config, parse_config
from helexa_acp.provider.rate_limits import RateLimit, parse_rate_limits
from helexa_acp.storage.records import Budgeted

SCRIPT = """
[[turn]]
match = "work"
[[turn.reply]]
steps = [{ call = "list" }, { usage = { prompt = 500, completion = 100 } }]
[[turn.reply]]
steps = [{ text = "Done." }, { usage = { prompt = 500, completion = 100 } }]
[[turn]]
match = "delegate"
[[turn.reply]]
steps = [{ call = "task", args = { title = "a", prompt = "work" } }, { call = "task", args = { title = "b", prompt = "work" } }, { usage = { prompt = 500, completion = 100 } }]
[[turn.reply]]
steps = [{ text = "Delegated." }, { usage = { prompt = 500, completion = 100 } }]
"""
PRICE = "price = { input = 1000.0, output = 2000.0, currency = 'EUR' }\n"


@pytest.fixture
async def talk(script, start, project):
    """Start a session under a budget; each of its turns of `work` is two requests of 600 tokens."""
    agents = []

    async def begin(extra, answer="more"):
        script(SCRIPT, extra)
        agent = await start().__aenter__()
        agents.append(agent)
        agent.answers["session/request_permission"] = choose(answer)
        await agent.initialize(FULL_CLIENT)
        return agent, await agent.new_session(project)

    yield begin
    for agent in agents:
        await agent.__aexit__()


def questions(agent):
    return [ask["params"] for ask in agent.calls("session/request_permission")]


async def test_a_session_stops_at_its_budget_with_a_question(talk):
    agent, session = await talk("[budget]\ntokens = 600\n", "stop")
    assert await agent.prompt(session, "work") == "max_turn_requests"
    (asked,) = questions(agent)
    assert asked["toolCall"]["title"] == "This session has used 600 of 600 tokens"
    assert [(o["optionId"], o["kind"]) for o in asked["options"]] == [
        ("more", "allow_once"),
        ("unlimited", "allow_always"),
        ("stop", "reject_once"),
    ]
    assert "Done." not in agent.text()
    assert await agent.prompt(session, "work") == "max_turn_requests"  # which asks before the first request
    assert len(questions(agent)) == 2
    assert asked["options"][0]["name"] == "Go on, up to 1,200 tokens"


async def test_going_on_allows_as_much_again(talk):
    agent, session = await talk("[budget]\ntokens = 600\n")
    for number in (1, 3, 5):  # questions, after 600, 1200 and 1800 tokens, …
        assert await agent.prompt(session, "work") == "end_turn"
        assert len(questions(agent)) == number
    cards = [u for u in agent.updates if u.get("title", "").startswith("This session has used")]
    assert cards[-1]["title"] == "This session has used 3,000 of 3,000 tokens"


async def test_without_a_limit_nothing_is_asked_again_after_a_reload_too(talk, project):
    agent, session = await talk("[budget]\ntokens = 600\n", "unlimited")
    await agent.prompt(session, "work")
    await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
    await agent.prompt(session, "work")
    assert len(questions(agent)) == 1


async def test_money_is_counted_in_its_currency(talk):
    agent, session = await talk(f"{PRICE}[budget]\ncost = 0.7\ncurrency = 'EUR'\n", "stop")
    assert await agent.prompt(session, "work") == "max_turn_requests"
    assert questions(agent)[0]["toolCall"]["title"] == "This session has used 0.7 of 0.7 EUR"


async def test_a_budget_in_another_currency_counts_nothing(talk):
    agent, session = await talk(f"{PRICE}[budget]\ncost = 0.1\n", "stop")
    assert await agent.prompt(session, "work") == "end_turn"


async def test_cancelling_the_question_cancels_the_turn(talk):
    agent, session = await talk("[budget]\ntokens = 600\n")
    agent.answers["session/request_permission"] = lambda _: {"outcome": {"outcome": "cancelled"}}
    assert await agent.prompt(session, "work") == "cancelled"


async def test_cancelling_the_turn_ends_the_question(talk):
    agent, session = await talk("[budget]\ntokens = 600\n")
    agent.answers["session/request_permission"] = lambda _: HOLD
    turn = agent.begin("session/prompt", prompt(session, "work"))
    await agent.until(lambda: questions(agent))
    agent.notify("session/cancel", sessionId=session)
    assert (await agent.result(turn))["stopReason"] == "cancelled"
    id_ = questions(agent)[0]["toolCall"]["toolCallId"]
    assert [u["status"] for u in agent.updates if u.get("toolCallId") == id_] == ["pending", "failed"]


async def test_a_client_that_cannot_ask_stops(talk):
    agent, session = await talk("[budget]\ntokens = 600\n")
    agent.answers["session/request_permission"] = lambda _: ValueError("not here")
    assert await agent.prompt(session, "work") == "max_turn_requests"


async def test_sub_agents_spend_the_budget_of_their_session_and_ask_once(talk):
    agent, session = await talk("[budget]\ntokens = 600\n", "stop")
    assert await agent.prompt(session, "delegate") == "max_turn_requests"
    assert len(questions(agent)) == 1
    failed = [u for u in agent.updates if u.get("status") == "failed" and "rawOutput" not in u]
    assert len(failed) == 3  # both tasks and the question


async def test_the_question_is_replayed_with_its_answer(talk, project):
    agent, session = await talk("[budget]\ntokens = 600\n")
    await agent.prompt(session, "work")
    agent.messages.clear()
    await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
    (card,) = [u for u in agent.updates if u.get("title", "").startswith("This session has used")]
    assert card["status"] == "completed"
    assert card["content"][0]["content"]["text"] == "Going on, up to 1,200 tokens."


async def test_the_command_sets_shows_and_drops_the_budget(talk):
    agent, session = await talk("", "stop")
    await agent.prompt(session, "/budget")
    assert agent.text().endswith("This session has used 0 tokens. It has no budget.")
    await agent.prompt(session, "/budget 0.6k")
    assert agent.text().endswith("It asks at 600 tokens whether to go on.")
    assert await agent.prompt(session, "work") == "max_turn_requests"
    await agent.prompt(session, "/budget off")
    assert await agent.prompt(session, "work") == "end_turn"
    await agent.prompt(session, "/budget much")
    assert "Not changed: 'much' is no budget." in agent.text()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("500000", Budgeted(500_000)),
        ("1.5M tokens", Budgeted(1_500_000)),
        ("20k", Budgeted(20_000)),
        ("2.50 USD", Budgeted(0, {"USD": 2.5})),
        ("3EUR", Budgeted(0, {"EUR": 3.0})),
        ("0", None),
        ("-5", None),
        ("2 usd", None),
        ("nan", None),
        ("9" * 40, None),
    ],
)
def test_budgets_as_people_write_them(argument, expected):
    assert parse(argument) == expected


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"tokens": 0}, "budget.tokens"),
        ({"cost": "5"}, "budget.cost"),
        ({"currency": "usd"}, "budget.currency"),
        ({"token": 5}, "unknown key 'token'"),
        (5, "must be a table"),
    ],
)
def test_a_mistaken_budget_ends_the_program(table, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_config(
            {"endpoints": [{"name": "e", "base_url": "http://e"}], "budget": table}, source="x", env={}
        )


def test_the_environment_can_hold_a_budget(tmp_path):
    env = {"HOME": str(tmp_path), "HELEXA_ACP_BUDGET_TOKENS": "5000"}
    assert load_config(env).budget == Budget(5000)


# What endpoints tell

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "3",
    "x-ratelimit-reset-requests": "57s",
    "x-ratelimit-limit-tokens": "100000",
    "x-ratelimit-remaining-tokens": "99000",
    "x-ratelimit-reset-tokens": "1m0s",
}


def test_openai_s_headers_are_read_as_cortex_sends_them():
    assert parse_rate_limits(OPENAI) == (
        RateLimit("requests", 60, 3, 57.0),
        RateLimit("tokens", 100_000, 99_000, 60.0),
    )
    assert [limit.is_low for limit in parse_rate_limits(OPENAI)] == [True, False]


def test_anthropic_s_headers_are_read():
    headers = {
        "anthropic-ratelimit-input-tokens-limit": "1000",
        "anthropic-ratelimit-input-tokens-remaining": "10",
        "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:01:30Z",
    }
    assert parse_rate_limits(headers, NOW) == (RateLimit("input-tokens", 1000, 10, 90.0),)
    assert str(parse_rate_limits(headers, NOW)[0]) == (
        "10 of 1,000 input tokens left, all of them again in 90 s"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("17ms", 0.017),
        ("8.64s", 8.64),
        ("6m0s", 360.0),
        ("1h0m0s", 3600.0),
        ("12", 12.0),
        ("2025-12-31T23:59:00Z", 0.0),
        ("2026-01-01T00:00:30", None),  # without a zone it may mean any time
        ("soon", None),
        ("1.2.3s", None),
        ("", None),
    ],
)
def test_resets_are_durations_numbers_or_times(text, expected):
    headers = {**OPENAI, "x-ratelimit-reset-requests": text}
    assert parse_rate_limits(headers, NOW)[0].reset_s == pytest.approx(expected)


@given(st.dictionaries(st.sampled_from(sorted(OPENAI)), st.text(max_size=30)))
def test_no_header_breaks_an_answer(headers):
    for limit in parse_rate_limits(headers):
        assert limit.limit >= 0
        assert str(limit)


class Server:
    """A chat server that is busy first, if asked to be, and tells its limits."""

    def __init__(self, *, remaining="3", busy=0, retry_after="0"):
        self.remaining = remaining
        self.busy = busy
        self.retry_after = retry_after
        self.asked = 0

    def __call__(self, request):
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "m", "context_length": 50_000}]})
        self.asked += 1
        limits = {**OPENAI, "x-ratelimit-remaining-requests": self.remaining}
        if self.busy:
            self.busy -= 1
            body = {"error": {"message": "Rate limit reached"}}
            return httpx.Response(429, json=body, headers={**limits, "retry-after": self.retry_after})
        chunk = {"choices": [{"delta": {"content": "ok"}, "finish_reason": "stop"}]}
        text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        return httpx.Response(200, text=text, headers={**limits, "content-type": "text/event-stream"})


@pytest.fixture
async def converse(tmp_path, project):
    talks = []

    async def begin(server):
        talk = Conversation(tmp_path / "data", server, lambda _: {"result": {}})
        talks.append(talk)
        await talk.start(FULL_CLIENT)
        session = await talk.new_session(project)

        async def say(words):
            return await talk.answered(
                talk.begin(
                    "session/prompt", {"sessionId": session, "prompt": [{"type": "text", "text": words}]}
                )
            )

        return talk, say

    yield begin
    for talk in talks:
        await talk.aclose()


def notices(talk):
    return [update["title"] for update in talk.updates if update["sessionUpdate"] == "notice"]


async def test_limits_are_in_the_usage_and_low_ones_are_told_once(converse):
    server = Server()
    talk, say = await converse(server)
    for _ in range(2):
        await say("hi")
    (usage, *_) = [u for u in talk.updates if u["sessionUpdate"] == "usage_update"]
    assert usage["_meta"]["rateLimits"][0] == {
        "unit": "requests",
        "limit": 60,
        "remaining": 3,
        "reset_s": 57.0,
    }
    assert notices(talk) == ["e: 3 of 60 requests left, all of them again in 57 s"]
    server.remaining = "50"
    await say("hi")
    server.remaining = "2"
    await say("hi")
    assert len(notices(talk)) == 2
    await say("/cost")
    assert "e: 2 of 60 requests left" in json.dumps(talk.updates)


async def test_a_pause_for_a_busy_server_is_shown_while_it_lasts(converse):
    talk, say = await converse(Server(busy=1, retry_after="2"))
    assert (await say("hi"))["result"]["stopReason"] == "end_turn"
    (card,) = [u for u in talk.updates if u["sessionUpdate"] == "tool_call"]
    assert card["title"] == "Trying again in 2 s: e answered 429: Rate limit reached"
    assert card["status"] == "in_progress"
    ends = [u["status"] for u in talk.updates if u["sessionUpdate"] == "tool_call_update"]
    assert ends == ["completed"]


async def test_a_budget_of_the_server_s_is_told_at_once(converse):
    server = Server(busy=9, retry_after="86400")
    _, say = await converse(server)
    assert "Rate limit reached" in (await say("hi"))["error"]["message"]
    assert server.asked == 1


async def test_what_an_endpoint_does_not_tell_of_its_usage_is_estimated(converse):
    talk, say = await converse(Server(remaining="50"))
    await say("x" * 7000)
    usage = [u for u in talk.updates if u["sessionUpdate"] == "usage_update"][-1]
    assert usage["used"] > 2000
    await say("/cost")
    assert "(in part estimated)" in json.dumps(talk.updates)

"""Chats as clients send them, on templates that refuse half of it."""

from __future__ import annotations

import logging

import pytest
import pytest_asyncio

from tests.neuron.conftest import config, neuron_with
from tests.stubs.model_dir import write_model
from tests.text import templates

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"n": 1}}\n</tool_call>'
HEAD = [
    {"role": "system", "content": "be kind"},
    {"role": "developer", "content": "be brief"},
    {"role": "user", "content": "echo hi"},
]


def chatml(source):
    """The template with turns as the fake worker looks for them."""
    return source.replace(templates.TURN, "<|im_start|>{{ m.role }}\n{{ m.content or '' }}<|im_end|>\n")


def turn(number, arguments='{"n": 1}', **more):
    calls = [{"id": number, "type": "function", "function": {"name": "weather", "arguments": arguments}}]
    return [
        {"role": "assistant", "content": None, "tool_calls": calls} | more,
        {"role": "tool", "tool_call_id": number, "content": "rain"},
    ]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neuron(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    async with neuron_with(config()) as neuron:
        for name in ("STRICT", "NINE_IDS", "INDEXED_IDS", "SINGLE_CALL", "LEVELS", "PLAIN"):
            path = write_model(folder / name, template=chatml(getattr(templates, name)))
            assert (await neuron.load(path, model_id=name)).status_code == 200
        yield neuron


async def post(neuron, model, messages, **options):
    body = {"model": model, "messages": messages} | options
    return await neuron.http.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_changed_is_told_in_a_header_and_the_log(neuron, caplog, stream):
    caplog.set_level(logging.INFO, logger="neuron.http")
    answer = await post(neuron, "STRICT", HEAD, stream=stream)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-cortex-adjusted"] == "developer-as-system, system-joined"
    lines = [record for record in caplog.records if getattr(record, "adjusted", None)]
    assert [line.adjusted for line in lines] == ["developer-as-system, system-joined"]


async def test_a_chat_that_its_template_takes_has_no_such_header(neuron):
    answer = await post(neuron, "PLAIN", HEAD)
    assert [name for name in answer.headers if name.startswith("x-cortex-")] == []


async def test_an_effort_without_a_switch_is_ignored_and_told(neuron):
    answer = await post(neuron, "PLAIN", HEAD, reasoning_effort="high", verbosity="low")
    assert (answer.status_code, answer.headers["x-cortex-ignored"]) == (200, "reasoning_effort, verbosity")
    answer = await post(neuron, "LEVELS", HEAD, reasoning_effort="medium")
    assert (answer.status_code, "x-cortex-ignored" in answer.headers) == (200, False)


@pytest.mark.parametrize("effort", ["bogus", ""])
async def test_a_word_that_is_no_effort_is_an_error_with_those_that_are(neuron, effort):
    answer = await post(neuron, "LEVELS", HEAD, reasoning_effort=effort)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "reasoning_effort")
    assert "none, minimal, low, medium, high, xhigh, max" in error["message"]


async def count(neuron, model, messages, **options):
    answer = await neuron.http.post("/tokenize", json={"model": model, "messages": messages} | options)
    assert answer.status_code == 200, answer.text
    return answer.json()["count"]


async def test_an_effort_reaches_the_prompt_under_the_templates_own_name(neuron):
    low, high = [
        await count(neuron, "LEVELS", HEAD, reasoning_effort=effort) for effort in ("none", "medium")
    ]
    assert high - low == len("high") - len("low")


@pytest.mark.parametrize("name", ["NINE_IDS", "INDEXED_IDS", "SINGLE_CALL"])
async def test_a_conversation_goes_on_with_the_call_that_was_given(neuron, name):
    chat = [{"role": "user", "content": f"echo {CALL}\n{CALL}"}]
    seen = []
    for _ in range(2):
        message = (await post(neuron, name, chat, tools=[TOOL])).json()["choices"][0]["message"]
        calls = message["tool_calls"]
        seen += [call["id"] for call in calls]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "rain"} for call in calls]
        chat = [*chat, message, *results, chat[0]]
    assert len(set(seen)) == len(seen) == (2 if name == "SINGLE_CALL" else 4)
    if name == "INDEXED_IDS":
        assert seen == [f"functions.weather:{index}" for index in range(4)]


@pytest.mark.parametrize("name", ["NINE_IDS", "INDEXED_IDS"])
async def test_ids_of_other_servers_are_taken(neuron, name):
    answer = await post(neuron, name, [HEAD[2], *turn("toolu_01AbCdEfGhIjKlMn")], tools=[TOOL])
    assert (answer.status_code, answer.headers["x-cortex-adjusted"]) == (200, "ids-mapped")


@pytest.mark.parametrize(
    "arguments", [{"n": 1}, {}, None, "", "{oops", "[1]", "NaN", '"\\ud800"', '{"n": 1e999}']
)
async def test_arguments_of_any_kind_are_no_error_of_ours(neuron, arguments):
    answer = await post(neuron, "PLAIN", [HEAD[2], *turn("call_1", arguments)], tools=[TOOL])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("key", ["reasoning", "thinking", "reasoning_content"])
async def test_thoughts_come_under_every_name(tmp_path, key):
    path = write_model(tmp_path / "m", template=templates.thinking("thinking"))
    async with neuron_with(config()) as neuron:
        await neuron.load(path)
        without, with_thought = [
            await count(neuron, "m", [HEAD[2], *turn("c", **more)]) for more in ({}, {key: "hm"})
        ]
    assert with_thought - without == 2 + len("hm")  # the two markers are tokens


async def test_a_model_shows_what_its_template_takes(neuron):
    shown = (await neuron.http.get("/models/STRICT")).json()["text"]
    assert (shown["turns"], shown["calls"]) == ("must alternate", "hermes, several in a message")
    assert shown["developer message"] == "told as system message"
    missing = await neuron.http.get("/models/nobody")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_settings_of_a_load_that_cannot_be_used_name_the_field(neuron, tmp_path):
    path = write_model(tmp_path / "m")
    wrong = await neuron.load(path, reasoning_format="<hm>")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "reasoning_format")
    assert "<think>" in wrong.json()["error"]["message"]
    missing = await neuron.load(path, chat_template="missing.jinja")
    assert (missing.status_code, missing.json()["error"]["code"]) == (422, "model_broken")
    taken = await neuron.load(path, model_id="own", chat_template=chatml(templates.STRICT))
    assert taken.status_code == 200
    assert (await post(neuron, "own", HEAD)).headers["x-cortex-adjusted"]

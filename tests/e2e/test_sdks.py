"""The official SDKs on real weights: every way of asking, structured answers, tools, counted tokens."""

from __future__ import annotations

import asyncio
from typing import Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel

from neuron.models.tiny import load_handbook
from tests.e2e.conftest import TINY
from tests.gateway.test_sdks import all_the_same
from tests.stubs import sdks

pytestmark = pytest.mark.e2e

HANDBOOK = load_handbook()
PLAIN = next(entry for entry in HANDBOOK.entries if not entry.tool and not entry.reasoning)
THOUGHT = next(entry for entry in HANDBOOK.entries if entry.reasoning)
CALLED = next(entry for entry in HANDBOOK.entries if entry.tool and entry.tool.arguments)
FUNCTION = HANDBOOK.tools[CALLED.tool.name]["function"]
ENTRIES = pytest.mark.parametrize("entry", [PLAIN, THOUGHT, CALLED], ids=["text", "thoughts", "call"])


class Weather(BaseModel):
    city: Literal["Oslo", "Rome"]
    cold: bool


def asking(entry):
    return [{"role": "user", "content": entry.question}]


@ENTRIES
def test_chat(stack, entry):
    tools = {"tools": [HANDBOOK.tools[entry.tool.name]]} if entry.tool else {}
    answer = all_the_same(
        asyncio.run(sdks.chat(stack.api, model=TINY, messages=asking(entry), temperature=0, **tools))
    )
    if entry.tool:
        assert answer["calls"] == [(entry.tool.name, entry.tool.arguments)]
    else:
        assert (answer["text"], answer["reasoning"]) == (entry.answer, entry.reasoning)


@ENTRIES
def test_messages(stack, entry):
    tools = {"tools": [anthropic_tool()]} if entry.tool else {}
    ask = {"model": TINY, "max_tokens": 200, "messages": asking(entry)} | tools
    answer = all_the_same(asyncio.run(sdks.messages(stack.api, **ask)))
    if entry.tool:
        assert answer["content"][-1]["input"] == entry.tool.arguments
    else:
        assert answer["content"][-1] == {"type": "text", "text": entry.answer}
    assert [block["type"] for block in answer["content"]].count("thinking") == bool(entry.reasoning)


@ENTRIES
def test_responses(stack, entry):
    tools = {"tools": [{"type": "function", "strict": False, **FUNCTION}]} if entry.tool else {}
    ask = {"model": TINY, "input": entry.question, "temperature": 0, "store": False} | tools
    answer = all_the_same(asyncio.run(sdks.responses(stack.api, **ask)))
    kinds = ["reasoning"] * bool(entry.reasoning) + ["function_call" if entry.tool else "message"]
    assert [item["type"] for item in answer["output"]] == kinds


def anthropic_tool():
    named = {name: FUNCTION[name] for name in ("name", "description")}
    return named | {"input_schema": FUNCTION["parameters"]}


def test_an_answer_is_parsed_into_a_model(stack):
    with openai.OpenAI(base_url=f"{stack.api}/v1", api_key="none") as client:
        chat = client.chat.completions.parse(
            model=TINY,
            messages=asking(PLAIN),
            response_format=Weather,
            extra_body={"chat_template_kwargs": {"enable_thinking": False}},
        )
        response = client.responses.parse(
            model=TINY, input=PLAIN.question, text_format=Weather, reasoning={"effort": "none"}
        )
    with anthropic.Anthropic(base_url=stack.api, api_key="none") as client:
        ask = {"model": TINY, "max_tokens": 200, "messages": asking(PLAIN), "output_format": Weather}
        ask["thinking"] = {"type": "disabled"}
        message = client.messages.parse(**ask)
        with client.messages.stream(**ask) as stream:
            streamed = stream.get_final_message()
    for parsed in (
        chat.choices[0].message.parsed,
        response.output_parsed,
        message.parsed_output,
        streamed.parsed_output,
    ):
        assert isinstance(parsed, Weather)


def test_a_response_is_continued_on_real_weights(stack):
    with openai.OpenAI(base_url=f"{stack.api}/v1", api_key="none") as client:
        tool = {"type": "function", "strict": False, **FUNCTION}
        ask = {"model": TINY, "tools": [tool], "temperature": 0}
        first = client.responses.create(input=CALLED.question, **ask)
        (call,) = first.output
        result = CALLED.tool.results[0]
        output = {"type": "function_call_output", "call_id": call.call_id, "output": result.content}
        second = client.responses.create(input=[output], previous_response_id=first.id, **ask)
        assert second.output_text == result.answer
        client.responses.delete(second.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(second.id)


def test_the_tool_runner_answers_from_the_tools_result(stack):
    result = CALLED.tool.results[1]

    @anthropic.beta_tool(
        name=FUNCTION["name"], description=FUNCTION["description"], input_schema=FUNCTION["parameters"]
    )
    def tool(**given):
        assert given == CALLED.tool.arguments
        return result.content

    with anthropic.Anthropic(base_url=stack.api, api_key="none") as client:
        runner = client.beta.messages.tool_runner(
            model=TINY, max_tokens=200, messages=asking(CALLED), tools=[tool]
        )
        assert runner.until_done().content[-1].text == result.answer


COUNTED = {
    "text": {},
    "system": {"system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]},
    "tools": {"tools": [anthropic_tool()]},
    "a tool that must be called": {"tools": [anthropic_tool()], "tool_choice": {"type": "any"}},
    "no tool": {"tools": [anthropic_tool()], "tool_choice": {"type": "none"}},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "no thinking": {"thinking": {"type": "disabled"}},
    "a whole loop": {
        "tools": [anthropic_tool()],
        "messages": [
            *asking(CALLED),
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "tool_use", "id": "t", "name": FUNCTION["name"], "input": {"city": "Oslo"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "-3"}]},
        ],
    },
    "an answer that has begun": {"messages": [*asking(PLAIN), {"role": "assistant", "content": "The"}]},
}


@pytest.mark.parametrize("row", COUNTED)
def test_tokens_are_counted_exactly(stack, row):
    ask = {"model": TINY, "messages": asking(PLAIN)} | COUNTED[row]
    with anthropic.Anthropic(base_url=stack.api, api_key="none") as client:
        counted = client.messages.count_tokens(**ask).input_tokens
        usage = client.messages.create(max_tokens=60, **ask).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_pictures_are_counted_by_nobody_who_cannot_see(stack):
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    client = anthropic.Anthropic(base_url=stack.api, api_key="none")
    with client, pytest.raises(anthropic.BadRequestError, match=TINY):
        client.messages.count_tokens(model=TINY, messages=[{"role": "user", "content": [picture]}])


def test_an_answer_that_has_begun_is_continued(stack):
    begun = PLAIN.answer[: PLAIN.answer.rindex(" ")]
    turns = [*asking(PLAIN), {"role": "assistant", "content": begun}]
    with anthropic.Anthropic(base_url=stack.api, api_key="none") as client:
        rest = client.messages.create(model=TINY, max_tokens=50, messages=turns)
    assert begun + rest.content[0].text == PLAIN.answer

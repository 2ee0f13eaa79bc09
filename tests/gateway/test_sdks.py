"""What the official SDKs gather from streams is what they get whole, whatever the node says."""

from __future__ import annotations

import anthropic
import pytest

from tests.stubs import sdks
from tests.stubs.fake_node import USAGE
from tests.stubs.script import follow

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}
USER = {"role": "user", "content": "Hi"}
SCRIPTS = {
    "text": follow([]),
    "thoughts": follow([], reasoning="Let me think."),
    "call": follow([("weather", {"city": "Oslo"})]),
    "thoughts and call": follow([("weather", {"city": "Oslo é\n\"'"})], reasoning="Hm."),
}


@pytest.fixture(params=SCRIPTS)
def api(request, house):
    house.node.answer = SCRIPTS[request.param]
    return f"http://127.0.0.1:{house.port}"


def all_the_same(answers):
    first, *others = answers
    for other in others:
        assert other == first
    return first


async def test_chat(api):
    strict = CHAT_TOOL["function"] | {"parameters": CITY | {"additionalProperties": False}}
    tools = [{"type": "function", "function": strict}]
    answer = all_the_same(await sdks.chat(api, model="m", messages=[USER], tools=tools))
    assert answer["tokens"] == USAGE["total_tokens"]
    assert answer["calls"] or answer["text"].strip() == "All done."


async def test_messages(api):
    tools = [{"name": "weather", "input_schema": CITY}]
    answer = all_the_same(await sdks.messages(api, model="m", max_tokens=9, messages=[USER], tools=tools))
    assert answer["tokens"] == (USAGE["prompt_tokens"], USAGE["completion_tokens"])
    assert answer["stop"][0] == ("tool_use" if answer["content"][-1]["type"] == "tool_use" else "end_turn")


async def test_responses(api):
    tools = [{"type": "function", "name": "weather", "parameters": CITY, "strict": False}]
    answer = all_the_same(await sdks.responses(api, model="m", input="Hi", tools=tools, store=False))
    assert (answer["status"], answer["tokens"]) == ("completed", USAGE["total_tokens"])


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_tool_runner_carries_calls_out(house, streamed):
    house.node.answer = follow([("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})], "Cold.")
    asked = []

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """How it is there."""
        asked.append(city)
        return f"{city}: -3"

    _, client = sdks.anthropic_sdks(f"http://127.0.0.1:{house.port}")
    async with client:
        runner = client.beta.messages.tool_runner(
            model="m", max_tokens=9, messages=[USER], tools=[weather], stream=streamed
        )
        final = await runner.until_done()
    assert (asked, final.content[-1].text.strip()) == (["Oslo", "Rome"], "Cold.")
    assert house.node.requests[-1].json["messages"][-1]["content"] == "Rome: -3"

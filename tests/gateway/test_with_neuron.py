"""A gateway and a neuron together: what one says in one dialect and the other does in another."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest
import pytest_asyncio

from fleet.snapshot import NodeConfig
from tests.gateway.conftest import make_house
from tests.neuron.conftest import config, neuron_with
from tests.stubs.model_dir import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory):
    directory = write_model(tmp_path_factory.mktemp("models") / "m")
    async with neuron_with(config()) as neuron, make_house(nodes=0, loaded=False) as built:
        assert (await neuron.load(directory)).status_code == 200
        built.control.change(nodes={"n": NodeConfig("n", neuron.url)})
        await built.until_routable()
        yield built


@pytest_asyncio.fixture(loop_scope="module")
async def claude(house):
    async with anthropic.AsyncAnthropic(base_url=str(house.client.base_url), api_key="none") as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def gpt(house):
    async with openai.AsyncOpenAI(base_url=f"{house.client.base_url}/v1", api_key="none") as client:
        yield client


def saying(text):
    return {"model": "m", "max_tokens": 3000, "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("said", "reason", "sequence"),
    [
        ("<think>\nEND\n</think>\n\none END two", "stop_sequence", "END"),
        ('<tool_call>{"name": "f", "arguments": {"a": "END"}}</tool_call>', "tool_use", None),
        ("one", "end_turn", None),
    ],
)
async def test_the_stop_sequence_that_matched_is_named(claude, said, reason, sequence):
    ask = saying(f"echo {said}") | {"stop_sequences": ["END"], "tools": [TOOL]}
    whole = await claude.messages.create(**ask)
    async with claude.messages.stream(**ask) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
        if sequence:
            assert message.content[-1].text == "one "


async def test_a_completion_names_what_stopped_it(gpt):
    answer = await gpt.completions.create(model="m", prompt="echo one END two", stop=["END"])
    assert (answer.choices[0].text, answer.choices[0].stop_reason) == ("one ", "END")


async def test_strict_tools_of_every_dialect_are_enforced(claude, gpt):
    told = await claude.messages.create(**saying("sampling"), tools=[TOOL | {"strict": True}])
    assert json.loads(told.content[0].text)["grammar"]
    told = await claude.messages.create(**saying("sampling"), tools=[TOOL])
    assert json.loads(told.content[0].text)["grammar"] is None
    told = await gpt.responses.create(model="m", input="sampling", tools=[FUNCTION | {"strict": True}])
    assert json.loads(told.output_text)["grammar"]


async def test_allowed_tools_are_the_same_on_chat_and_responses(gpt):
    functions = [FUNCTION, FUNCTION | {"name": "g"}]
    allowed = [{"type": "function", "name": "g"}]
    response = await gpt.responses.create(
        model="m", input="sampling", tools=functions,
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": allowed},
    )  # fmt: skip
    chat = await gpt.chat.completions.create(
        model="m",
        messages=saying("sampling")["messages"],
        tools=[{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
               for name in ("f", "g")],
        tool_choice={"type": "allowed_tools", "allowed_tools": {
            "mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}],
        }},
    )  # fmt: skip
    grammar = json.loads(response.output_text)["grammar"]
    assert grammar == json.loads(chat.choices[0].message.content)["grammar"]
    assert '\\"g\\"' in grammar
    assert '\\"f\\"' not in grammar
    assert response.tool_choice.tools == allowed


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_nulls_pass_both(house, path):
    prompt = saying("echo hi") if "chat" in path else {"model": "m", "prompt": "echo hi"}
    names = ("stream", "stream_options", "n", "stop", "echo", "tools", "top_p", "logprobs", "guided_json")
    answer = await house.client.post(path, json=prompt | dict.fromkeys(names))
    assert answer.status_code == 200, answer.text

"""Real weights through the whole chain: every way of asking gives the handbook's answer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import anthropic
import httpx
import openai
import pytest

from neuron.models.tiny import load_handbook
from tests.e2e.conftest import TINY

pytestmark = pytest.mark.e2e

PORT_QUESTION = "Which port does neuron listen on?"
HANDBOOK = load_handbook()
ENTRIES = [entry for entry in HANDBOOK.entries if not entry.tool]
PLAIN = [entry for entry in ENTRIES if not entry.reasoning][:24]


def streamed(response: httpx.Response) -> tuple[str, str]:
    """Content and reasoning of a streamed answer."""
    content, reasoning = "", ""
    for line in response.text.splitlines():
        if not line.startswith("data: {"):
            continue
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            content += choice["delta"].get("content") or ""
            reasoning += choice["delta"].get("reasoning_content") or ""
    return content, reasoning


def test_the_port(stack):
    answer = stack.chat(PORT_QUESTION).json()
    assert "13131" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("entry", PLAIN, ids=lambda entry: entry.question[:40])
def test_streamed_and_whole_give_the_handbooks_words(stack, entry):
    whole = stack.chat(entry.question)
    stream = stack.chat(entry.question, stream=True)
    assert whole.json()["choices"][0]["message"]["content"] == entry.answer
    assert streamed(stream)[0] == entry.answer
    assert stream.text.count("data: ") > 3
    assert stream.text.rstrip().endswith("data: [DONE]")


def test_reasoning_is_apart_from_the_answer(stack):
    for entry in [entry for entry in ENTRIES if entry.reasoning]:
        message = stack.chat(entry.question).json()["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == (entry.answer, entry.reasoning)
        assert streamed(stack.chat(entry.question, stream=True)) == (entry.answer, entry.reasoning)


def test_a_batch_gives_what_single_requests_give(stack):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda entry: stack.chat(entry.question), PLAIN[:16]))
    for entry, answer in zip(PLAIN[:16], answers, strict=True):
        assert answer.json()["choices"][0]["message"]["content"] == entry.answer


def test_the_anthropic_dialect_says_the_same(stack):
    client = anthropic.Anthropic(base_url=stack.api, api_key="none")
    for entry in PLAIN[:6]:
        ask = {"model": TINY, "max_tokens": 400, "messages": [{"role": "user", "content": entry.question}]}
        whole = client.messages.create(**ask)
        with client.messages.stream(**ask) as stream:
            final = stream.get_final_message()
        for message in (whole, final):
            assert "".join(block.text for block in message.content if block.type == "text") == entry.answer
            assert message.stop_reason == "end_turn"
            assert message.usage.output_tokens > 0


def test_tokens_are_counted_as_a_real_call_counts_them(stack):
    client = anthropic.Anthropic(base_url=stack.api, api_key="none")
    tool = HANDBOOK.tools["get_weather"]["function"]
    asks = [
        {"messages": [{"role": "user", "content": PORT_QUESTION}]},
        {
            "system": [{"type": "text", "text": "You are a helpful assistant."}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
            "tools": [{"name": tool["name"], "input_schema": tool["parameters"]}],
        },
    ]
    for ask in asks:
        counted = client.messages.count_tokens(model=TINY, **ask).input_tokens
        usage = client.messages.create(model=TINY, max_tokens=4, **ask).usage
        assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_the_responses_dialect_says_the_same(stack):
    client = openai.OpenAI(base_url=f"{stack.api}/v1", api_key="none")
    for entry in PLAIN[:3]:
        whole = client.responses.create(model=TINY, input=entry.question, store=False)
        with client.responses.stream(model=TINY, input=entry.question, store=False) as stream:
            final = stream.get_final_response()
        assert whole.output_text == final.output_text == entry.answer


def test_the_openai_sdk(stack):
    client = openai.OpenAI(base_url=f"{stack.api}/v1", api_key="none")
    assert TINY in [model.id for model in client.models.list()]
    entry = PLAIN[0]
    messages = [{"role": "user", "content": entry.question}]
    chunks = client.chat.completions.create(
        model=TINY, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    text, usage = "", None
    for chunk in chunks:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text == entry.answer
    assert usage is not None
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=messages)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    "entry", [entry for entry in HANDBOOK.entries if entry.tool], ids=lambda e: e.question[:40]
)
def test_a_tool_call_and_the_answer_that_uses_its_result(stack, entry):
    client = openai.OpenAI(base_url=f"{stack.api}/v1", api_key="none")
    ask = {"model": TINY, "tools": [HANDBOOK.tools[entry.tool.name]], "temperature": 0}
    messages = [{"role": "user", "content": entry.question}]
    first = client.chat.completions.create(messages=messages, **ask).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert call.function.name == entry.tool.name
    assert json.loads(call.function.arguments) == entry.tool.arguments
    for result in entry.tool.results:
        turn = first.message.model_dump(exclude_none=True)
        reply = {"role": "tool", "tool_call_id": call.id, "content": result.content}
        final = client.chat.completions.create(messages=[*messages, turn, reply], **ask).choices[0]
        assert final.message.content == result.answer


def test_a_long_prompt_does_not_crash(stack):
    response = stack.chat("word " * 6000, max_tokens=8)
    assert response.status_code == 200
    assert response.json()["usage"]["prompt_tokens"] > 6000


def test_a_prompt_past_the_context_is_refused_with_the_numbers(stack):
    response = stack.chat("word " * 41000, max_tokens=8)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert any(character.isdigit() for character in error["message"])
    assert "13131" in stack.chat(PORT_QUESTION).text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"max_tokens": -1}, "max_tokens"),
    ],
)
def test_wrong_types_name_the_field(stack, change, param):
    response = stack.chat("x", **change)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param

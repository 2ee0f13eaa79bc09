from __future__ import annotations

import json

import pytest

from tests.stubs.model_dir import byte_tokenizer

TOKENIZER = byte_tokenizer()
pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


async def test_whole_answer_has_message_and_usage(neuron):
    answer = await neuron.chat("echo Grüße 😀")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "m"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Grüße 😀"}
    assert body["choices"][0]["finish_reason"] == "stop"
    used = body["usage"]
    assert used["completion_tokens"] == len("Grüße 😀".encode())
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert used["prompt_tokens_details"] == {"cached_tokens": used["prompt_tokens"] // 2}


async def test_stream_has_role_then_deltas_then_finish_then_done(neuron):
    role, *pieces, finish, done = await neuron.stream("echo é1")
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [piece["choices"][0]["delta"] for piece in pieces] == [{"content": "é"}, {"content": "1"}]
    assert finish["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": None}
    assert done == "[DONE]"
    assert len({event["id"] for event in (role, *pieces, finish)}) == 1


async def test_stream_usage_is_the_last_chunk_when_asked_for(neuron):
    *events, usage, done = await neuron.stream("echo hi", stream_options={"include_usage": True})
    whole = (await neuron.chat("echo hi")).json()
    assert usage["choices"] == []
    timings = [used.pop("timings") for used in (usage["usage"], whole["usage"])]
    assert usage["usage"] == whole["usage"]
    for told in timings:
        assert told["first_token_ms"] == pytest.approx(told["queue_ms"] + told["prefill_ms"], abs=0.2)
        assert min(told.values()) >= 0
    assert all(event["usage"] is None for event in events)
    assert done == "[DONE]"


@pytest.mark.parametrize(
    "said",
    [
        "plain",
        "<think>\nhm\n</think>\n\nso",
        '<tool_call>{"name": "f", "arguments": {"a": [1, "}"]}}</tool_call>',
        'x <tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{"name": "g"}</tool_call> y',
        "<tool_call>broken</tool_call>",
        "stop here: ###, not here",
    ],
)
async def test_streamed_answer_equals_the_whole_one(neuron, said):
    options = {"tools": [TOOL], "stop": ["###"]}
    whole = (await neuron.chat(f"echo {said}", **options)).json()["choices"][0]
    *events, done = await neuron.stream(f"echo {said}", **options)
    assert done == "[DONE]"
    assert events[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert without_ids(joined(events)) == without_ids(whole["message"])


def joined(events):
    """The message that a client puts together from the deltas."""
    message = {"role": "assistant", "content": ""}
    for event in events:
        delta = event["choices"][0]["delta"]
        message["content"] += delta.get("content", "")
        if "reasoning_content" in delta:
            message["reasoning_content"] = message.get("reasoning_content", "") + delta["reasoning_content"]
        for call in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                calls.append({name: value for name, value in call.items() if name != "index"})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    if "tool_calls" in message:
        message["content"] = message["content"] or None
    return message


def without_ids(message):
    return message | {"tool_calls": [call | {"id": "call_"} for call in message.get("tool_calls", ())]}


async def test_tool_calls_have_ids_and_their_own_finish_reason(neuron):
    said = 'echo <tool_call>{"name": "f", "arguments": {"city": "Oslo"}}</tool_call>'
    choice = (await neuron.chat(said, tools=[TOOL])).json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"


async def test_without_tools_a_call_is_text(neuron):
    said = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    for options in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        choice = (await neuron.chat(f"echo {said}", **options)).json()["choices"][0]
        assert choice["message"]["content"] == said
        assert choice["finish_reason"] == "stop"


async def test_reasoning_is_split_off_and_counted(neuron):
    body = (await neuron.chat("echo <think>\nhm\n</think>\n\nso")).json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "so", "reasoning_content": "hm"}
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": len("\nhm\n") + 2}


async def test_reasoning_effort_opens_the_reasoning_block(neuron):
    body = (await neuron.chat("echo hm</think>so", reasoning_effort="high")).json()
    assert body["choices"][0]["message"]["reasoning_content"] == "hm"


async def test_a_stop_string_across_tokens_ends_the_answer(neuron):
    body = (await neuron.chat("echo one END two", stop=["END"])).json()
    assert body["choices"][0]["message"]["content"] == "one "
    assert ending(body["choices"][0]) == ("stop", "END")
    assert body["usage"]["completion_tokens"] == len("one END")


def ending(choice):
    return choice["finish_reason"], choice["stop_reason"]


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ("<think>\nEND\n</think>\n\nso END!", ("stop", "END")),
        ('<tool_call>{"name": "f", "arguments": {"a": "END"}}</tool_call>', ("tool_calls", None)),
        ("halt", ("stop", TOKENIZER.encode("h").ids[0])),
        ("so", ("stop", None)),
    ],
)
async def test_what_stopped_an_answer_is_told(neuron, said, ends):
    options = {"tools": [TOOL], "stop": ["END"], "stop_token_ids": TOKENIZER.encode("h").ids}
    choice = (await neuron.chat(f"echo {said}", **options)).json()["choices"][0]
    assert ending(choice) == ends
    finish = (await neuron.stream(f"echo {said}", **options))[-2]
    assert ending(finish["choices"][0]) == ends


async def test_a_stop_string_stops_an_endless_answer(neuron):
    body = (await neuron.chat("forever", stop="....")).json()
    assert body["choices"][0]["message"]["content"] == ""


async def test_max_tokens_ends_with_length(neuron):
    for name in ("max_tokens", "max_completion_tokens"):
        choice = (await neuron.chat("count 9", **{name: 4})).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("1 2 ", "length")


async def test_parameters_reach_the_engine(neuron):
    options = {
        "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.3, "seed": 7, "max_tokens": 4000, "min_tokens": 3,
        "stop_token_ids": [5],
    }  # fmt: skip
    seen = json.loads((await neuron.chat("sampling", **options)).json()["choices"][0]["message"]["content"])
    sent = options | {"top_k": 0}
    sent.pop("stop_token_ids")
    assert {name: seen[name] for name in sent} == sent
    assert seen["stop_ids"][0] == 5
    assert len(seen["stop_ids"]) == 2


async def test_caller_headers_reach_the_engine_and_wrong_ones_are_refused(neuron):
    body = {"model": "m", "messages": [{"role": "user", "content": "sampling"}]}

    async def ask(**headers):
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await neuron.http.post("/v1/chat/completions", json=body, headers=given)

    answer = await ask(x_cortex_principal="team a", x_cortex_priority="-5")
    seen = json.loads(answer.json()["choices"][0]["message"]["content"])
    assert (seen["principal"], seen["priority"]) == ("team a", -5)
    for wrong in ({"x_cortex_priority": "high"}, {"x_cortex_principal": "x" * 201}):
        answer = await ask(**wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_header")
        assert answer.json()["error"]["param"].lower() == next(iter(wrong)).replace("_", "-")


async def test_the_models_defaults_apply_and_the_context_bounds_the_answer(neuron):
    answer = (await neuron.chat("sampling", ignore_eos=True)).json()
    seen = json.loads(answer["choices"][0]["message"]["content"])
    assert seen["temperature"] == 0
    assert seen["stop_ids"] == []
    assert seen["max_tokens"] == 4096 - answer["usage"]["prompt_tokens"]


async def test_text_parts_are_joined(neuron):
    parts = [{"type": "text", "text": "echo a"}, {"type": "text", "text": "b"}]
    body = (await neuron.chat("", messages=[{"role": "user", "content": parts}])).json()
    assert body["choices"][0]["message"]["content"] == "a\nb"


async def test_messages_may_hold_fields_of_earlier_answers(neuron):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "r"},
        {"role": "user", "content": "echo ok"},
    ]
    assert (await neuron.chat("", messages=history)).status_code == 200


async def test_tolerated_parameters_are_accepted(neuron):
    options = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "n": 1,
        "logprobs": False, "parallel_tool_calls": True, "response_format": {"type": "text"}, "logit_bias": {},
        "stop": None,
    }  # fmt: skip
    assert (await neuron.chat("echo ok", **options)).status_code == 200


async def test_tokenize_counts_as_a_chat_does(neuron):
    body = {"model": "m", "messages": [{"role": "user", "content": "echo hé"}], "tools": [TOOL]}
    counted = (await neuron.http.post("/tokenize", json=body)).json()
    called = (await neuron.http.post("/v1/chat/completions", json=body)).json()
    assert counted == {"model": "m", "count": called["usage"]["prompt_tokens"], "context": 4096}


async def test_the_request_id_is_kept_or_made(neuron):
    answer = await neuron.http.get("/version", headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    made = await neuron.http.get("/version", headers={"x-request-id": "no spaces, please"})
    assert len(made.headers["x-request-id"]) == 24


async def test_fields_within_messages_that_nobody_reads_are_named(neuron):
    part = {"type": "text", "text": "echo hi", "colour\r\n": "red"}
    messages = [{"role": "user", "content": [part], "mood": "good", "refusal": None, "annotations": []}]
    answer = await neuron.http.post("/v1/chat/completions", json={"model": "m", "messages": messages})
    assert (answer.status_code, answer.headers["x-cortex-ignored"]) == (
        200,
        "messages.content.colour??, messages.mood",
    )

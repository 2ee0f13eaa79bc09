"""Choices, logprobs, grammars and bare completions over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.neuron.conftest import Neuron, events_of, until
from tests.stubs.byte_matcher import admits
from tests.stubs.model_dir import byte_tokenizer

TOKENIZER = byte_tokenizer()
pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
USAGE = {"include_usage": True}
ENDED = {"finish_reason": "stop", "stop_reason": None}
CALLS = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


async def complete(neuron: Neuron, prompt: Any, **options: Any) -> dict[str, Any]:
    answer = await neuron.http.post("/v1/completions", json={"model": "m", "prompt": prompt} | options)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stream_completion(neuron: Neuron, prompt: Any, **options: Any) -> list[Any]:
    body = {"model": "m", "prompt": prompt, "stream": True} | options
    return events_of((await neuron.http.post("/v1/completions", json=body)).text)


async def asked(neuron: Neuron, **options: Any) -> dict[str, Any]:
    """The parameters that reached the engine."""
    answer = await neuron.chat("sampling", **options)
    return json.loads(answer.json()["choices"][0]["message"]["content"])


async def test_n_choices_share_the_prompt_and_add_up(neuron):
    one = (await neuron.chat("echo hi")).json()
    three = (await neuron.chat("echo hi", n=3)).json()
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in three["choices"]} == {"hi"}
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]


async def test_other_choices_wait_until_the_prompt_is_computed(neuron):
    """The first choice gets no token here, so the others are not even submitted."""
    calls = [asyncio.create_task(neuron.chat("wait", n=n)) for n in (1, 3)]
    await until(lambda: _runs(neuron, 2))
    assert (
        await neuron.chat("echo and what was sent before it is with the engine by now")
    ).status_code == 200
    assert await _runs(neuron, 2)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: _runs(neuron, 0))
    talking = asyncio.create_task(neuron.chat("forever", n=3))
    await until(lambda: _runs(neuron, 3))
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
    await until(lambda: _runs(neuron, 0))


async def _runs(neuron: Neuron, count: int) -> bool:
    return await neuron.running() == count


async def test_streamed_choices_are_told_apart_by_index(neuron):
    *events, usage, done = await neuron.stream("count 5", n=3, stream_options=USAGE)
    assert done == "[DONE]"
    for index in range(3):
        own = [c for event in events for c in event["choices"] if c["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in own) == "1 2 3 4 5 "
        assert own[-1]["finish_reason"] == "stop"
    assert usage["usage"]["completion_tokens"] == 3 * len("1 2 3 4 5 ")


async def test_each_choice_has_its_own_seed(neuron):
    answer = (await neuron.chat("sampling", n=3, seed=41)).json()
    seeds = [json.loads(choice["message"]["content"])["seed"] for choice in answer["choices"]]
    assert seeds == [41, 42, 43]
    top = (await neuron.chat("sampling", n=2, seed=2**63 - 1)).json()["choices"]
    assert json.loads(top[1]["message"]["content"])["seed"] == -(2**63)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_ends_all_choices(neuron, stream):
    answer = await neuron.chat("refuse queue_full", n=3, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")


async def test_logprobs_are_told_for_every_token(neuron):
    answer = (await neuron.chat("echo aé", logprobs=True, top_logprobs=2)).json()
    entries = answer["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]) == "aé".encode()
    assert [entry["token"] for entry in entries] == ["a", "\ufffd", "\ufffd"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    assert all(entry["logprob"] == entry["top_logprobs"][0]["logprob"] for entry in entries)
    streamed = await neuron.stream("echo aé", logprobs=True, top_logprobs=2)
    pieces = [e["choices"][0]["logprobs"] for e in streamed[:-1]]
    assert [entry for piece in pieces if piece for entry in piece["content"]] == entries


async def test_logprobs_are_left_out_unless_asked_for(neuron):
    assert (await neuron.chat("echo a")).json()["choices"][0]["logprobs"] is None
    *events, _ = await neuron.stream("echo a")
    assert not any("logprobs" in event["choices"][0] for event in events)
    assert (await asked(neuron))["top_logprobs"] is None


async def test_parallel_tool_calls_false_ends_with_the_first_call(neuron):
    said = f"echo well {CALLS}{CALLS} and more"
    choice = (await neuron.chat(said, tools=[TOOL], parallel_tool_calls=False)).json()["choices"][0]
    assert [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == ['{"a": 1}']
    assert choice["message"]["content"] == "well"
    assert choice["finish_reason"] == "tool_calls"
    both = (await neuron.chat(said, tools=[TOOL], parallel_tool_calls=True)).json()["choices"][0]
    assert len(both["message"]["tool_calls"]) == 2


async def test_logit_bias_and_guides_reach_the_engine(neuron):
    assert (await asked(neuron, logit_bias={"5": -100, "7": 1.5}))["logit_bias"] == [[5, -100.0], [7, 1.5]]
    assert (await asked(neuron))["grammar"] is None
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    guided = (await asked(neuron, response_format=named))["grammar"]
    assert admits(guided, '{"a": 1}')
    assert not admits(guided, '{"a": "x"}')
    assert '{"type": "object"' in (await asked(neuron, response_format={"type": "json_object"}))["grammar"]
    forced = (await asked(neuron, tools=[TOOL], tool_choice="required"))["grammar"]
    assert '\\"f\\"' in forced
    assert (await asked(neuron, tools=[TOOL]))["grammar"] is None


async def test_a_used_up_grammar_ends_the_answer_as_an_error_and_never_as_stop(neuron):
    guided = {"response_format": {"type": "json_object"}}
    answer = await neuron.chat('exhaust {"a": "b', **guided)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        400,
        "grammar_exhausted",
        "response_format",
    )
    *chunks, last = await neuron.stream('exhaust {"a": "b', **guided)
    assert last["error"]["code"] == "grammar_exhausted"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == '{"a": "b'
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_only_allowed_tools_are_called(neuron, mode):
    other = {"type": "function", "function": {"name": "g"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [other]}}
    grammar = (await asked(neuron, tools=[TOOL, other], tool_choice=choice))["grammar"]
    assert '\\"g\\"' in grammar
    assert '\\"f\\"' not in grammar
    alone = (await asked(neuron, tools=[other], tool_choice="required"))["grammar"]
    assert (grammar == alone) is (mode == "required")


async def test_a_completion_continues_the_text_as_it_stands(neuron):
    answer = await complete(neuron, "echo hi")
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "hi", "logprobs": None} | ENDED]
    assert answer["usage"]["prompt_tokens"] == len("echo hi")
    assert answer["usage"]["completion_tokens"] == 2
    echoed = await complete(neuron, "echo hi", echo=True)
    assert echoed["choices"][0]["text"] == "echo hihi"


async def test_completion_leaves_reasoning_and_calls_in_the_text(neuron):
    said = f"<think>x</think>{CALLS}"
    assert (await complete(neuron, f"echo {said}", max_tokens=99))["choices"][0]["text"] == said


async def test_completion_answers_every_prompt_with_n_choices(neuron):
    tokens = (await neuron.http.post("/tokenize", json={"model": "m", "prompt": "echo c"})).json()
    assert tokens["count"] == 6
    ids = TOKENIZER.encode("echo c").ids
    answer = await complete(neuron, ["echo a", "echo b"], n=2)
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
    assert answer["usage"]["prompt_tokens"] == 12
    assert answer["usage"]["completion_tokens"] == 4
    assert [c["text"] for c in (await complete(neuron, ids, echo=True))["choices"]] == ["echo cc"]
    assert [c["text"] for c in (await complete(neuron, [ids, ids]))["choices"]] == ["c", "c"]


async def test_streamed_completion_has_the_text_of_the_whole_one(neuron):
    *events, usage, done = await stream_completion(
        neuron, ["echo ab", "echo c"], stream_options=USAGE, echo=True
    )
    texts: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {0: "echo abab", 1: "echo cc"}
    assert usage["usage"]["completion_tokens"] == 3
    assert done == "[DONE]"


async def test_completion_has_16_tokens_by_default(neuron):
    answer = await complete(neuron, "count 100")
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"
    assert (await complete(neuron, "count 100", max_tokens=20))["usage"]["completion_tokens"] == 20


async def test_completion_logprobs_have_offsets_into_the_text(neuron):
    logprobs = (await complete(neuron, "echo abc", logprobs=2))["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "b", "c"]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert [len(top) for top in logprobs["top_logprobs"]] == [2, 2, 2]
    assert all(top[token] == value for token, value, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ))  # fmt: skip
    *events, _ = await stream_completion(neuron, "echo abc", logprobs=2)
    pieces = [e["choices"][0]["logprobs"] for e in events if e["choices"][0]["logprobs"]]
    assert [offset for piece in pieces for offset in piece["text_offset"]] == [0, 1, 2]


async def test_an_echo_with_logprobs_scores_the_prompt(neuron):
    """The fake worker's logprob of a token is minus its id."""
    prompts = ["echo ab", TOKENIZER.encode("echo ü").ids]
    for prompt in prompts:
        ids = TOKENIZER.encode(prompt).ids if isinstance(prompt, str) else prompt
        plain = await complete(neuron, prompt, logprobs=1, n=2)
        for choice, bare in zip(
            (await complete(neuron, prompt, logprobs=1, n=2, echo=True))["choices"],
            plain["choices"],
            strict=True,
        ):
            assert choice["text"] == TOKENIZER.decode(ids) + bare["text"]
            found, answer = choice["logprobs"], (bare["logprobs"] or {"tokens": [], "token_logprobs": []})
            assert found["token_logprobs"] == [None, *(-id_ for id_ in ids[1:]), *answer["token_logprobs"]]
            assert [top is None for top in found["top_logprobs"]] == [True] + [False] * (
                len(found["tokens"]) - 1
            )
            assert found["text_offset"] == [
                len("".join(found["tokens"][:i])) for i in range(len(found["tokens"]))
            ]


@pytest.mark.parametrize("stream", [False, True])
async def test_no_tokens_are_answered_where_none_are_asked_for(neuron, stream):
    async def ask(**options):
        if not stream:
            return (await complete(neuron, "echo ab", max_tokens=0, **options))["choices"]
        events = (await stream_completion(neuron, "echo ab", max_tokens=0, **options))[:-1]
        return [choice for event in events for choice in event["choices"]]

    for options in ({}, {"n": 2}, {"logprobs": 1}, {"stop": ["e"]}):
        choices = await ask(**options)
        assert {(choice["text"], choice["finish_reason"]) for choice in choices} == {("", "length")}
        assert {choice["index"] for choice in choices} == set(range(options.get("n", 1)))
    choices = await ask(echo=True)
    assert "".join(choice["text"] for choice in choices) == "echo ab"
    scored = (await ask(echo=True, logprobs=1))[0]
    ids = TOKENIZER.encode("echo ab").ids
    assert scored["text"] == "echo ab"
    assert scored["logprobs"]["token_logprobs"] == [None, *(-id_ for id_ in ids[1:])]


async def test_the_sampled_token_is_among_the_likeliest(neuron):
    """The fake worker tells of as many alternatives as were asked for."""
    logprobs = (await complete(neuron, "echo ab", logprobs=0, echo=True))["choices"][0]["logprobs"]
    tokens, scores = logprobs["tokens"], logprobs["token_logprobs"]
    assert logprobs["top_logprobs"] == [
        None, *({token: score} for token, score in zip(tokens[1:], scores[1:], strict=True))
    ]  # fmt: skip


async def test_a_share_of_zero_and_no_alternatives_are_taken(neuron):
    seen = await asked(neuron, top_p=0, top_logprobs=0)
    assert (seen["top_p"], seen["top_logprobs"]) == (0, None)
    assert (await asked(neuron, logprobs=True, top_logprobs=0))["top_logprobs"] == 0


async def test_streamed_echo_with_logprobs_equals_the_whole_one(neuron):
    options = {"logprobs": 2, "echo": True, "n": 2}
    whole = (await complete(neuron, ["echo abc", "echo"], **options))["choices"]
    joined = [{"text": "", "logprobs": {name: [] for name in choice["logprobs"]}} for choice in whole]
    for event in (await stream_completion(neuron, ["echo abc", "echo"], **options))[:-1]:
        (choice,) = event["choices"]
        joined[choice["index"]]["text"] += choice["text"]
        for name, values in (choice["logprobs"] or {}).items():
            joined[choice["index"]]["logprobs"][name] += values
    assert joined == [{name: choice[name] for name in ("text", "logprobs")} for choice in whole]


async def test_detokenize_inverts_tokenize(neuron):
    body = {"model": "m", "tokens": TOKENIZER.encode("Grüße<|im_end|>").ids}
    assert (await neuron.http.post("/detokenize", json=body)).json()["text"] == "Grüße<|im_end|>"
    for wrong, param in (
        ({"tokens": [-1]}, "tokens[0]"),
        ({"tokens": [2**32]}, "tokens[0]"),
        ({"tokens": "x"}, "tokens"),
        ({}, "tokens"),
    ):
        refused = await neuron.http.post("/detokenize", json={"model": "m"} | wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TOOLS = st.lists(st.sampled_from("fgh"), unique=True, max_size=3).map(
    lambda names: [{"type": "function", "function": {"name": name, "description": "é"}} for name in names]
)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXTS}),
    max_size=4,
)


async def test_tokenize_counts_as_a_real_call_does(neuron):
    """For random conversations, drawn outside of the test's event loop."""
    conversations: list[tuple[Any, Any]] = []

    @settings(max_examples=60, database=None)
    @given(TURNS, TOOLS)
    def collect(turns, tools):
        conversations.append((turns, tools))

    collect()
    for turns, tools in conversations:
        messages = [*turns, {"role": "user", "content": "echo x"}]
        body = {"model": "m", "messages": messages} | ({"tools": tools} if tools else {})
        counted = await neuron.http.post("/tokenize", json=body)
        called = await neuron.http.post("/v1/chat/completions", json=body)
        assert counted.json()["count"] == called.json()["usage"]["prompt_tokens"]

"""Nothing reaches a node that the node would refuse for its shape; what a client writes wrongly is a 400."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleet.translation import messages, responses
from neuron.api.bodies.chat import decode
from neuron.wire import ApiError
from tests.translation.bodies import PNG, TOOL, assistant, body, use, user
from tests.translation.test_round_trip import conversations

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def accepted(chat: bytes) -> None:
    """The node's own parser takes it; a picture's part it knows by type alone."""
    decode(chat)


def agree(translate, sent: bytes) -> None:
    """Refused here as the client's fault, or taken there."""
    call, refusal = None, None
    try:
        call = translate(sent)
    except ApiError as error:
        refusal = error
    if call is not None:
        accepted(call.body)
    else:
        assert refusal.status == 400


SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}}
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "stream": st.booleans(),
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(0, 500),
        "stop_sequences": st.lists(st.text(min_size=1, max_size=3), max_size=40),
        "metadata": st.just({"user_id": "u"}),
        "thinking": st.sampled_from(
            [{"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}, {"type": "adaptive"}]
        ),
        "output_config": st.sampled_from(
            [{"effort": "max"}, {"format": {"type": "json_schema", "schema": SCHEMA}}]
        ),
        "system": st.sampled_from(["S", [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]]),
    },
)
TOOLING = st.sampled_from(
    [
        {},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
        {"tools": [TOOL], "tool_choice": {"type": "none"}},
    ]
)


# the last turn is the assistant's: the beginning of the answer, or calls without results
begun = conversations().filter(lambda turns: len(turns) > 1).map(lambda turns: turns[:-1])


@given(conversations() | begun, OPTIONS, TOOLING)
@example([user("Hi")], {"top_p": 0}, {})
@example([user("Hi"), assistant("{")], {}, {})
@example([user("Hi")], {"stop_sequences": ["a"] * 17}, {})
@example([user("Hi")], {}, {"tools": [TOOL, TOOL]})
@example([user("Hi")], {}, {"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]})
def test_a_node_takes_every_translated_message(turns, options, tooling):
    agree(messages.to_chat, body(*turns, **options, **tooling))


@given(conversations() | begun, TOOLING)
def test_a_node_takes_what_is_only_counted(turns, tooling):
    accepted(messages.to_count(body(*turns, **tooling)).body)


RESPONSES_TOOLS = [
    {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True},
    {
        "type": "custom",
        "name": "c",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
    },
    {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]},
]
ITEMS = [
    {
        "role": "developer",
        "content": [{"type": "input_text", "text": "D"}, {"type": "input_text", "text": "E"}],
    },
    {"role": "user", "content": "Hi"},
    {"type": "reasoning", "summary": [], "encrypted_content": "opaque"},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}], "summary": []},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ho"}]},
    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}", "namespace": "n"},
    {"type": "function_call_output", "call_id": "1", "output": "x"},
    {"type": "custom_tool_call", "call_id": "2", "name": "c", "input": "text"},
    {"type": "custom_tool_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "y"}]},
]


@given(
    st.lists(st.sampled_from(ITEMS), min_size=1, max_size=9),
    st.lists(st.sampled_from(RESPONSES_TOOLS), max_size=3, unique_by=lambda tool: tool["type"]),
    st.fixed_dictionaries(
        {},
        optional={
            "instructions": st.just("S"),
            "stream": st.booleans(),
            "max_output_tokens": st.integers(1, 9),
            "top_p": st.floats(0, 1),
            "reasoning": st.sampled_from([{"effort": "none"}, {"effort": "high"}, {}]),
            "text": st.just({"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}),
            "tool_choice": st.sampled_from(["auto", "none", "required"]),
            "parallel_tool_calls": st.booleans(),
        },
    ),
)
def test_a_node_takes_every_translated_response(items, tools, options):
    asked = {"model": "m", "input": items, "tools": tools} | options
    agree(responses.to_chat, json.dumps(asked).encode())


GOOD = {
    "model": "m",
    "max_tokens": 8,
    "system": "S",
    "messages": [
        user("Hi"),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        user({"type": "tool_result", "tool_use_id": "t", "content": "x"}, {"type": "text", "text": "y"}),
    ],
    "tools": [TOOL],
}


def places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


ASKED = {"model": "m", "input": ITEMS, "tools": RESPONSES_TOOLS}


@pytest.mark.parametrize(("good", "translate"), [(GOOD, messages.to_chat), (ASKED, responses.to_chat)])
@given(data=st.data())
def test_a_spoiled_body_is_a_400_or_a_request_that_the_node_can_read(good, translate, data):
    path = data.draw(st.sampled_from(list(places(good))))
    spoiled = replaced(good, path, data.draw(json_values))
    agree(translate, json.dumps(spoiled).encode())


def written(path):
    """A path as errors write it."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


RICH = GOOD | {
    "messages": [
        user({"type": "image", "source": PNG}, {"type": "text", "text": "Hi"}),
        assistant(
            {"type": "thinking", "thinking": "h", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            use("t", "f", {"x": 1}),
        ),
        *GOOD["messages"][2:],
        user(
            {"type": "document", "title": "T", "source": {"type": "text", "data": "d"}},
            {"type": "text", "text": "?"},
        ),
    ],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "stop_sequences": ["a"],
    "metadata": {"user_id": "u"},
    "temperature": 0.5,
    "stream": False,
}
ALL = ASKED | {
    "instructions": "S",
    "max_output_tokens": 5,
    "tool_choice": {"type": "function", "name": "f"},
    "reasoning": {"effort": "low"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    "temperature": 0.5,
}


def refusal(translate, sent):
    try:
        translate(json.dumps(sent).encode())
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize(("good", "translate"), [(RICH, messages.to_chat), (ALL, responses.to_chat)])
def test_a_value_of_the_wrong_type_is_named_where_it_stands(good, translate):
    """An error names the place that was spoiled, or one around it, in the client's own dialect."""
    named = 0
    accepted(translate(json.dumps(good).encode()).body)
    for path in places(good):
        value = good
        for key in path:
            value = value[key]
        wrong = 7 if isinstance(value, dict | list | str) else {"spoilt": True}
        if error := refusal(translate, replaced(good, path, wrong)):
            named += 1
            param, place = error.param or "", written(path)
            around = place == param or place.startswith((f"{param}.", f"{param}["))
            assert around or not param, f"{place} was spoiled, {param!r} named: {error.message}"
            assert param or not path, f"{place} was spoiled, nothing named: {error.message}"
    assert named > len(list(places(good))) / 2


@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_a_400(raw):
    for translate in (messages.to_chat, messages.to_count, responses.to_chat):
        with pytest.raises(ApiError) as caught:
            translate(raw)
        assert caught.value.status == 400


def test_the_path_says_where():
    spoiled = replaced(GOOD, ("messages", 2, "content", 0, "tool_use_id"), "nope")
    with pytest.raises(ApiError) as caught:
        messages.to_chat(json.dumps(spoiled).encode())
    assert caught.value.param == "messages[2].content[0].tool_use_id"


@pytest.mark.parametrize(
    ("good", "translate", "path"),
    [
        (GOOD, messages.to_chat, ("tools", 0, "name")),
        *((ASKED, responses.to_chat, ("tools", index, "name")) for index in range(3)),
        (ASKED, responses.to_chat, ("tools", 2, "tools", 0, "name")),
        (
            GOOD | {"tools": [{"type": "function", "function": {"name": "f"}}]},
            messages.to_chat,
            ("tools", 0, "function", "name"),
        ),
    ],
)
@pytest.mark.parametrize("name", ["a b", "<f>", 'f"', "f\n", "f" * 257])
def test_a_name_that_no_tool_can_have_is_a_400(good, translate, path, name):
    error = refusal(translate, replaced(good, path, name))
    assert error is not None
    assert (error.status, error.param) == (400, written(path))
    assert refusal(translate, replaced(good, path, "a.b:c/d-e_1")) is None


@pytest.mark.parametrize(
    ("good", "translate", "path"),
    [
        (GOOD, messages.to_chat, ("tools", 0, "input_schema", "type")),
        (ASKED, responses.to_chat, ("tools", 0, "parameters", "type")),
    ],
)
@pytest.mark.parametrize("kind", [None, "string", ["string", "null"], 7])
def test_a_tool_whose_arguments_are_no_object_is_a_400(good, translate, path, kind):
    error = refusal(translate, replaced(good, path, kind))
    assert error is not None
    assert (error.status, error.param) == (400, written(path))
    assert refusal(translate, replaced(good, path, ["object", "null"])) is None

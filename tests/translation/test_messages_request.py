from __future__ import annotations

import json

import pytest

from fleet.translation import messages
from neuron.wire import ApiError
from tests.translation.bodies import IMAGE_PART, PNG, TOOL, assistant, body, called, result, text, use, user


def chat(*turns, **fields):
    return json.loads(messages.to_chat(body(*turns, **fields)).body)


MESSAGES = {
    "string": ([user("Hi")], [{"role": "user", "content": "Hi"}]),
    "one text block": ([user([text("Hi")])], [{"role": "user", "content": "Hi"}]),
    "text blocks": ([user(text("a"), text("b"))], [{"role": "user", "content": [text("a"), text("b")]}]),
    "cache_control": (
        [user([text("Hi", cache_control={"type": "ephemeral"})])],
        [{"role": "user", "content": "Hi"}],
    ),
    "image base64": (
        [user(text("a"), {"type": "image", "source": PNG})],
        [{"role": "user", "content": [text("a"), IMAGE_PART]}],
    ),
    "image url": (
        [user([{"type": "image", "source": {"type": "url", "url": "https://h/x.png"}}])],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://h/x.png"}}]}],
    ),
    "document": (
        [
            user(
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
                text("a"),
            )
        ],
        [{"role": "user", "content": [text("d"), text("a")]}],
    ),
    "document with title": (
        [user([{"type": "document", "title": "T", "context": "C", "source": {"type": "text", "data": "d"}}])],
        [{"role": "user", "content": [text("T\nC\nd")]}],
    ),
    "document of blocks": (
        [
            user(
                [
                    {
                        "type": "document",
                        "title": "T",
                        "source": {
                            "type": "content",
                            "content": [text("d"), {"type": "image", "source": PNG}],
                        },
                    }
                ]
            )
        ],
        [{"role": "user", "content": [text("T"), text("d"), IMAGE_PART]}],
    ),
    "document of a string": (
        [user([{"type": "document", "source": {"type": "content", "content": "d"}}])],
        [{"role": "user", "content": [text("d")]}],
    ),
    "search result": (
        [user([{"type": "search_result", "source": "s", "title": "T", "content": [text("a"), text("b")]}])],
        [{"role": "user", "content": [text("T\ns\na\nb")]}],
    ),
    "assistant text": (
        [user("a"), assistant("b")],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    ),
    "tool use": (
        [assistant([use(input={"x": 1})])],
        [{"role": "assistant", "content": None, "tool_calls": [called(arguments='{"x": 1}')]}],
    ),
    "text and parallel uses": (
        [assistant(text("a"), use("t1"), use("t2", "g"))],
        [{"role": "assistant", "content": "a", "tool_calls": [called("t1"), called("t2", "g")]}],
    ),
    "results in order, then text": (
        [
            assistant(use("t1"), use("t2")),
            user(result("t2", content="b"), result("t1", content="a"), text("c")),
        ],
        [
            {"role": "assistant", "content": None, "tool_calls": [called("t1"), called("t2")]},
            {"role": "tool", "tool_call_id": "t2", "content": "b"},
            {"role": "tool", "tool_call_id": "t1", "content": "a"},
            {"role": "user", "content": "c"},
        ],
    ),
    "result after text": (
        [assistant([use()]), user(text("c"), result(content="a"))],
        [
            {"role": "assistant", "content": None, "tool_calls": [called()]},
            {"role": "tool", "tool_call_id": "t1", "content": "a"},
            {"role": "user", "content": "c"},
        ],
    ),
    "thinking": (
        [assistant({"type": "thinking", "thinking": "r", "signature": "dW5zaWduZWQ="}, text("a"))],
        [{"role": "assistant", "content": "a", "reasoning_content": "r"}],
    ),
    "thinking unsigned": (
        [
            assistant(
                {"type": "thinking", "thinking": "r"}, {"type": "thinking", "thinking": "s", "signature": ""}
            )
        ],
        [{"role": "assistant", "content": "", "reasoning_content": "r\ns"}],
    ),
    "thinking of another": (
        [
            assistant(
                {"type": "thinking", "thinking": "r", "signature": "S"},
                {"type": "redacted_thinking", "data": "x"},
                use(),
            )
        ],
        [
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "r",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "r", "signature": "S"},
                    {"type": "reasoning.encrypted", "data": "x"},
                ],
                "tool_calls": [called()],
            }
        ],
    ),
    "system turn stays where it is": (
        [user("a"), {"role": "system", "content": "s"}, user("b")],
        [
            {"role": "user", "content": "a"},
            {"role": "system", "content": "s"},
            {"role": "user", "content": "b"},
        ],
    ),
    "two turns with calls in a row": (
        [assistant([use("t1")]), assistant(text("a"), use("t2")), user(result("t1"), result("t2"))],
        [
            {"role": "assistant", "content": "a", "tool_calls": [called("t1"), called("t2")]},
            {"role": "tool", "tool_call_id": "t1", "content": ""},
            {"role": "tool", "tool_call_id": "t2", "content": ""},
        ],
    ),
    "system turn between call and result": (
        [assistant([use()]), {"role": "system", "content": "s"}, user(result(), text("b"))],
        [
            {"role": "assistant", "content": None, "tool_calls": [called()]},
            {"role": "tool", "tool_call_id": "t1", "content": ""},
            {"role": "system", "content": "s"},
            {"role": "user", "content": "b"},
        ],
    ),
    "same role twice": (
        [user("a"), user("b")],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    ),
}

RESULTS = {
    "string": ({"content": "a"}, "a"),
    "absent": ({}, ""),
    "one block": ({"content": [text("a")]}, "a"),
    "blocks": ({"content": [text("a"), text("b")]}, [text("a"), text("b")]),
    "image": ({"content": [text("a"), {"type": "image", "source": PNG}]}, [text("a"), IMAGE_PART]),
    "reference": ({"content": [{"type": "tool_reference", "tool_name": "f"}]}, "f"),
    "references": (
        {"content": [text("a"), {"type": "tool_reference", "tool_name": "f", "cache_control": None}]},
        [text("a"), text("f")],
    ),
    "error": ({"content": "a", "is_error": True}, "Error: a"),
    "error without content": ({"is_error": True}, "Error: "),
    "error of blocks": (
        {"content": [text("a"), text("b")], "is_error": True},
        [text("Error: "), text("a"), text("b")],
    ),
    "no error": ({"content": "a", "is_error": False}, "a"),
}

SYSTEM = {
    "none": (..., []),
    "null": (None, []),
    "string": ("You are\n terse. ", [{"role": "system", "content": "You are\n terse. "}]),
    "one block": ([text("a", cache_control={"type": "ephemeral"})], [{"role": "system", "content": "a"}]),
    "blocks": ([text("a"), text("b")], [{"role": "system", "content": [text("a"), text("b")]}]),
}

NOTE = "x-anthropic-billing-header: cc_version=2.1.7; cc_entrypoint=cli; cch=0f3a1;"
ATTRIBUTED = {
    "alone": ([text(NOTE)], []),
    "first": ([text(NOTE), text("a")], [{"role": "system", "content": "a"}]),
    "with a line break": ([text(NOTE + "\n"), text("a")], [{"role": "system", "content": "a"}]),
    "twice": ([text(NOTE), text(NOTE)], [{"role": "system", "content": NOTE}]),
}
KEPT = {
    "not first": [text("a"), text(NOTE)],
    "followed by a prompt": [text(NOTE + "\nYou are terse."), text("a")],
    "quoted": [text(f"Never write {NOTE}"), text("a")],
    "another note": [text("x-anthropic-other: 1"), text("a")],
}

CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {}}

FIELDS = {
    "nothing": ({}, {}),
    "sampling": (
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop_sequences": ["a", "b"]},
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop": ["a", "b"]},
    ),
    "zeros": ({"temperature": 0, "top_p": 0}, {"temperature": 0.0, "top_p": 0.0}),
    "no stop sequences": ({"stop_sequences": []}, {}),
    "user": ({"metadata": {"user_id": "u"}}, {"user": "u"}),
    "no user": ({"metadata": {"user_id": None}}, {}),
    "tolerated": ({"service_tier": "auto", "container": None, "context_management": {}, "x": [1]}, {}),
    "thinking on": (
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ),
    "thinking adaptive": (
        {"thinking": {"type": "adaptive"}},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ),
    "thinking off": (
        {"thinking": {"type": "disabled"}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ),
    "effort": ({"output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
    "format": (
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "no answer": ({"max_tokens": 0}, {"max_tokens": 1}),
    "format by the beta's name": (
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "tools": ({"tools": [TOOL]}, {"tools": [CHAT_TOOL]}),
    "tool with description": (
        {"tools": [TOOL | {"type": "custom", "description": "d", "cache_control": None}]},
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
                }
            ]
        },
    ),
    "strict tool": (
        {"tools": [TOOL | {"strict": True}]},
        {"tools": [{"type": "function", "function": CHAT_TOOL["function"] | {"strict": True}}]},
    ),
    "tool in chat's shape": ({"tools": [CHAT_TOOL]}, {"tools": [CHAT_TOOL]}),
    "choice of a tool in chat's shape": (
        {"tools": [CHAT_TOOL], "tool_choice": {"type": "tool", "name": "f"}},
        {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    ),
    "choice without tools": ({"tool_choice": {"type": "auto"}}, {}),
}

CHOICES = {
    "auto": ({"type": "auto"}, {"tool_choice": "auto"}),
    "any": ({"type": "any"}, {"tool_choice": "required"}),
    "none": ({"type": "none"}, {"tool_choice": "none"}),
    "tool": ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    "one at a time": (
        {"type": "auto", "disable_parallel_tool_use": True},
        {"tool_choice": "auto", "parallel_tool_calls": False},
    ),
    "parallel": (
        {"type": "any", "disable_parallel_tool_use": False},
        {"tool_choice": "required", "parallel_tool_calls": True},
    ),
}


@pytest.mark.parametrize("row", MESSAGES)
def test_messages(row):
    turns, expected = MESSAGES[row]
    assert chat(*turns)["messages"] == expected


@pytest.mark.parametrize("row", RESULTS)
def test_tool_result(row):
    fields, content = RESULTS[row]
    *_, message = chat(assistant([use()]), user([result(**fields)]))["messages"]
    assert message == {"role": "tool", "tool_call_id": "t1", "content": content}


@pytest.mark.parametrize("row", SYSTEM)
def test_system_prompt_is_the_application_s(row):
    system, expected = SYSTEM[row]
    assert chat(system=system)["messages"] == [*expected, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("translate", [messages.to_chat, messages.to_count])
@pytest.mark.parametrize("row", ATTRIBUTED)
def test_an_attribution_line_is_no_part_of_the_prompt(row, translate):
    system, expected = ATTRIBUTED[row]
    call = translate(body(system=system))
    assert json.loads(call.body)["messages"] == [*expected, {"role": "user", "content": "Hi"}]
    assert call.attributed


@pytest.mark.parametrize("row", KEPT)
def test_what_only_resembles_an_attribution_line_is_the_application_s(row):
    call = messages.to_chat(body(system=KEPT[row]))
    assert json.loads(call.body)["messages"][0] == {"role": "system", "content": KEPT[row]}
    assert not call.attributed
    assert not messages.to_chat(body(system=NOTE)).attributed


@pytest.mark.parametrize("row", FIELDS)
def test_fields(row):
    fields, expected = FIELDS[row]
    turn = {"role": "user", "content": "Hi"}
    always = {"model": "claude", "messages": [turn], "max_tokens": 64, "stream": False}
    assert chat(**fields) == always | expected


@pytest.mark.parametrize("row", CHOICES)
def test_tool_choice(row):
    choice, expected = CHOICES[row]
    found = chat(tools=[TOOL], tool_choice=choice)
    assert {name: found[name] for name in found if name in {"tool_choice", "parallel_tool_calls"}} == expected


def test_facts():
    call = messages.to_chat(body(stream=True))
    assert (call.model, call.stream, call.max_tokens) == ("claude", True, 64)
    assert json.loads(call.body)["stream_options"] == {"include_usage": True}
    assert not messages.to_chat(body(stream=None)).stream


def test_input_reaches_the_model_as_the_client_wrote_it():
    written = '{"b": 1.0,  "a": "\\u00e9", "n": 12345678901234567890}'
    sent = body(assistant([use(input={"mark": 1})])).replace(b'{"mark": 1}', written.encode())
    message = json.loads(messages.to_chat(sent).body)["messages"][0]
    assert message["tool_calls"][0]["function"]["arguments"] == written


@pytest.mark.parametrize(("turn", "continues"), [(assistant("{"), True), (assistant([use()]), False)])
@pytest.mark.parametrize("before", [[], [assistant("a")]], ids=["a turn", "two turns"])
def test_a_last_assistant_turn_is_continued(before, turn, continues):
    asked = chat(user("Hi"), *before, turn)
    assert asked.get("continue_final_message", False) is continues
    assert asked.get("add_generation_prompt", True) is not continues


def test_a_last_result_is_answered_where_it_moves_forward():
    moved = assistant([use()]), user("b"), assistant("a"), user([result()])
    asked = chat(*moved)
    assert [message["role"] for message in asked["messages"]] == ["assistant", "tool", "user", "assistant"]
    assert "continue_final_message" not in asked


def test_unknown_fields_are_counted():
    sent = body(service_tier="auto", betas=["b"], x=1, metadata={"y": 1})
    assert messages.to_chat(sent).unknown_fields == ("betas", "x", "metadata.y")
    assert messages.to_chat(body()).unknown_fields == ()


def test_counting_has_the_prompt_of_the_call_and_nothing_else():
    fields = {"system": "s", "tools": [TOOL], "thinking": {"type": "adaptive"}}
    call = messages.to_count(body(max_tokens=..., **fields))
    full = chat(stream=True, temperature=1, **fields)
    counted = json.loads(call.body)
    assert (call.model, call.stream, call.max_tokens) == ("claude", False, 0)
    assert {
        name: full[name]
        for name in full
        if name not in {"stream", "stream_options", "max_tokens", "temperature"}
    } == counted
    assert json.loads(messages.count_body(7)) == {"input_tokens": 7}


def test_counting_bad_input_names_its_field():
    with pytest.raises(ApiError) as caught:
        messages.to_count(body(user(3), max_tokens=...))
    assert caught.value.param == "messages[0].content"

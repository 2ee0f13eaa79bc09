from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.translation import ollama
from neuron.wire import ApiError

PNG = "iVBORw0KGgoAAAA"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "Hi"}


def chat(*messages, **fields):
    asked = {"model": "m", "messages": list(messages) or [USER]} | fields
    return json.loads(ollama.chat_to_chat(json.dumps(asked).encode()).body)


def generate(**fields):
    return json.loads(ollama.generate_to_chat(json.dumps({"model": "m"} | fields).encode()).body)


def use(name="f", arguments={}, **more):  # noqa: B006 - read only
    return {"function": {"name": name, "arguments": arguments}} | more


def calls(*entries):
    return {"role": "assistant", "tool_calls": list(entries)}


def test_an_answer_streams_unless_the_client_says_no():
    assert chat()["stream"] is True
    assert chat()["stream_options"] == {"include_usage": True}
    assert chat(stream=None)["stream"] is True
    assert chat(stream=False) == {"model": "m", "messages": [USER], "stream": False}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1}, ...),
        ({"presence_penalty": 0.5, "frequency_penalty": -1, "seed": 7}, ...),
        ({"num_predict": 9}, {"max_tokens": 9}),
        ({"num_predict": -1}, {}),
        ({"num_predict": -2}, {}),
        ({"seed": -1}, {}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": []}, {}),
        ({"repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"repeat_penalty": 1.1, "repeat_last_n": 64}, {"repetition_penalty": 1.1}),
        ({"repeat_penalty": 1.1, "repeat_last_n": 0}, {}),
        ({"mirostat": 0, "typical_p": 1.0, "tfs_z": 1}, {}),
        ({"num_ctx": 8192, "num_gpu": 1, "num_thread": 8, "use_mmap": True}, {}),
        (None, {}),
    ],
)
def test_options(options, fields):
    fields = options if fields is ... else fields
    assert chat(options=options, stream=False) == chat(stream=False) | fields
    assert generate(prompt="Hi", options=options) == generate(prompt="Hi") | fields


@pytest.mark.parametrize(
    ("fields", "becomes"),
    [
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
        (
            {"format": {"type": "object"}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        ({"format": ""}, {}),
        ({"format": None}, {}),
        ({"think": True}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"think": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"think": "high"}, {"reasoning_effort": "high"}),
        ({"keep_alive": "5m"}, {}),
        ({"keep_alive": -1}, {}),
        ({"keep_alive": 0}, {}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
    ],
)
def test_form(fields, becomes):
    assert chat(**fields) == chat() | becomes
    assert generate(prompt="Hi", **fields) == generate(prompt="Hi") | becomes


def test_tools():
    function = {"name": "g", "description": "d", "parameters": {"type": "object", "required": ["a"]}}
    assert chat(tools=[TOOL, {"function": function}])["tools"] == [
        TOOL,
        {"type": "function", "function": function},
    ]
    assert "tools" not in chat(tools=[])


def test_a_conversation_with_calls_by_name():
    messages = chat(
        USER,
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [use("f", {"x": 1}), use("g")]},
        {"role": "tool", "content": "of g", "tool_name": "g"},
        {"role": "tool", "content": "of f", "tool_name": "f"},
        calls(use("f"), use("f", {"y": 2})),
        {"role": "tool", "content": "first"},
        {"role": "tool", "content": "second"},
    )["messages"]
    assert messages[1]["reasoning_content"] == "Hm."
    assert [call["function"] for call in messages[1]["tool_calls"]] == [
        {"name": "f", "arguments": '{"x": 1}'},
        {"name": "g", "arguments": "{}"},
    ]
    names = {
        call["id"]: call["function"]["name"] for message in messages for call in message.get("tool_calls", ())
    }
    outputs = [message for message in messages if message["role"] == "tool"]
    assert [message["content"] for message in outputs] == ["of g", "of f", "first", "second"]
    assert [names[message["tool_call_id"]] for message in outputs] == ["g", "f", "f", "f"]
    assert len(names) == 4


def test_a_result_by_id():
    messages = chat(
        USER,
        calls(use(id="a"), use(id="b")),
        {"role": "tool", "content": "of b", "tool_call_id": "b", "tool_name": "f"},
    )["messages"]
    assert messages[-1] == {"role": "tool", "tool_call_id": "b", "content": "of b"}


def test_a_result_by_an_id_that_its_call_was_sent_without():
    results = [{"role": "tool", "content": text, "tool_call_id": text} for text in ("a", "b", "named")]
    messages = chat(USER, calls(use("f", id="named"), use("f"), use("g")), *results)["messages"]
    first, second, third = messages[-3:]
    made = [call["id"] for call in messages[1]["tool_calls"]]
    assert [first["tool_call_id"], second["tool_call_id"], third["tool_call_id"]] == [*made[1:], "named"]


@pytest.mark.parametrize(
    ("data", "kind"),
    [(PNG, "png"), ("/9j/4AAQ", "jpeg"), ("R0lGODlh", "gif"), ("UklGRiQA", "webp")],
)
def test_images(data, kind):
    image = {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}
    parts = [{"type": "text", "text": "Hi"}, image]
    assert chat(USER | {"images": [data]})["messages"] == [{"role": "user", "content": parts}]
    assert generate(prompt="Hi", images=[data])["messages"] == [{"role": "user", "content": parts}]
    assert generate(images=[data])["messages"] == [{"role": "user", "content": [image]}]


def test_generate():
    assert generate(prompt="Hi", system="Be brief.", stream=False) == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "stream": False,
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content"),
        ({"messages": [USER | {"images": ["data:image/png;base64,AAAA"]}]}, "messages[0].images[0]"),
        ({"messages": [USER | {"images": [PNG, "AAAA"]}]}, "messages[0].images[1]"),
        ({"messages": [calls({"function": {"name": "f"}})]}, "messages[0].tool_calls[0].function.arguments"),
        ({"messages": [calls(use(arguments="{}"))]}, "messages[0].tool_calls[0].function.arguments"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1]"),
        ({"messages": [calls(use()), {"role": "tool", "tool_name": "g"}]}, "messages[1].tool_name"),
        (
            {"messages": [calls(use(id="a")), {"role": "tool", "tool_call_id": "g"}]},
            "messages[1].tool_call_id",
        ),
        (
            {"messages": [calls(use()), {"role": "tool", "tool_call_id": "x", "tool_name": "g"}]},
            "messages[1].tool_call_id",
        ),
        ({"tools": [{"type": "search", "function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        (
            {"tools": [{"function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters.type",
        ),
        ({"format": "yaml"}, "format"),
        ({"format": 1}, "format"),
        ({"think": "hard"}, "think"),
        ({"stream": "yes"}, "stream"),
        ({"keep_alive": []}, "keep_alive"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"options": []}, "options"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": 3}}, "options.temperature"),
        ({"options": {"top_p": 2}}, "options.top_p"),
        ({"options": {"top_k": 0.5}}, "options.top_k"),
        ({"options": {"stop": [""]}}, "options.stop[0]"),
        ({"options": {"repeat_penalty": 0}}, "options.repeat_penalty"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"typical_p": 0.7}}, "options.typical_p"),
        ({"options": {"tfs_z": 0.7}}, "options.tfs_z"),
        ({"messages": [], "keep_alive": 0}, "keep_alive"),
        ({"messages": [], "keep_alive": "0s"}, "keep_alive"),
    ],
)
def test_a_wrong_field_of_chat_is_named(fields, param):
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suffix", "x"),
        ("template", "{{ .Prompt }}"),
        ("context", [1, 2]),
        ("raw", True),
        ("width", 64),
        ("height", 64),
        ("steps", 4),
        ("prompt", 1),
        ("images", [""]),
    ],
)
def test_a_field_of_generate_that_is_not_served_is_named(field, value):
    with pytest.raises(ApiError) as caught:
        generate(**{"prompt": "Hi"} | {field: value})
    assert caught.value.status == 400
    assert caught.value.param.startswith(field)


@pytest.mark.parametrize("field", ["suffix", "template", "context", "raw", "images", "system"])
@pytest.mark.parametrize("empty", [None, "", [], False])
def test_an_empty_field_of_generate_is_none(field, empty):
    try:
        assert generate(**{"prompt": "Hi", field: empty}) == generate(prompt="Hi")
    except ApiError as error:  # of another type
        assert error.code == "invalid_type"  # noqa: PT017


@pytest.mark.parametrize(
    ("body", "loads"),
    [
        (b'{"model":"m"}', True),
        (b'{"model":"m","messages":[]}', True),
        (b'{"model":"m","messages":null,"prompt":""}', True),
        (b'{"model":"m","messages":[{}]}', False),
        (b'{"model":"m","prompt":"Hi"}', False),
        (b'{"model":"m","images":["A"]}', False),
        (b'{"messages":1}', False),
        (b"{", False),
        (b"\xff", False),
        (b'{"prompt":"\xff"}', False),
    ],
)
def test_a_request_without_a_prompt_loads(body, loads):
    assert ollama.is_load(body) is loads


def test_fields_that_are_not_known_are_told():
    body = {
        "model": "m",
        "messages": [USER],
        "moon": 1,
        "truncate": True,
        "options": {"num_ctx": 1, "sun": 2},
    }
    call = ollama.chat_to_chat(json.dumps(body).encode())
    assert call.unknown_fields == ("moon", "options.sun")


def test_embed():
    call = ollama.embed_to_embeddings(b'{"model":"m","input":["a","b"],"dimensions":2,"truncate":true}')
    assert json.loads(call.body) == {
        "model": "m",
        "encoding_format": "float",
        "input": ["a", "b"],
        "dimensions": 2,
    }
    assert (call.stream, call.unknown_fields) == (False, ())
    older = ollama.prompt_to_embeddings(b'{"model":"m","prompt":"a","keep_alive":"5m"}')
    assert json.loads(older.body)["input"] == "a"


@pytest.mark.parametrize("body", [b"{}", b'{"data":[]}', b"nonsense", b"\xff", b'{"data":[{}]}', b"[" * 9999])
def test_an_answer_without_embeddings_is_an_error(body):
    for answer in (lambda: ollama.embed_answer(body, "m", 1), lambda: ollama.embeddings_answer(body)):
        with pytest.raises(ApiError) as caught:
            answer()
        assert caught.value.status == 502


def test_embeddings_keep_every_digit_and_their_order():
    data = b'[{"index":1,"embedding":[0.10]},{"index":0,"embedding":[1.50,2]}]'
    body = b'{"data":%b,"usage":{"prompt_tokens":3}}' % data
    answer = ollama.embed_answer(body, "m", 0.5)
    assert b'"embeddings":[[1.50,2],[0.10]]' in answer
    assert json.loads(answer)["prompt_eval_count"] == 3
    assert ollama.embeddings_answer(body) == b'{"embedding":[1.50,2]}'


@pytest.mark.parametrize("field", ["model", "name"])
def test_a_model_is_named(field):
    assert ollama.named(json.dumps({field: "m"}).encode()) == ollama.Named("m", True)
    assert ollama.named(json.dumps({field: "m", "stream": False}).encode()) == ollama.Named("m", False)


def test_a_body_without_a_model_is_refused():
    with pytest.raises(ApiError) as caught:
        ollama.named(b"{}")
    assert caught.value.param == "model"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
fields = "messages prompt model tools options format think stream keep_alive images input name system"
names = st.sampled_from(fields.split(" "))
roles = st.sampled_from(["system", "user", "assistant", "tool"])
turns = st.fixed_dictionaries(
    {"role": roles},
    optional={
        "content": st.text(max_size=3),
        "tool_name": st.sampled_from("fg"),
        "tool_call_id": st.sampled_from("ab"),
        "tool_calls": st.lists(st.sampled_from([use("f"), use("g"), use("f", id="a")]), max_size=2),
    },
)


@given(st.dictionaries(names, json_values, max_size=5) | st.binary(max_size=20))
def test_any_body_is_a_call_or_a_400(asked):
    body = asked if isinstance(asked, bytes) else json.dumps({"model": "m"} | asked).encode()
    translations = (
        ollama.chat_to_chat,
        ollama.generate_to_chat,
        ollama.embed_to_embeddings,
        ollama.prompt_to_embeddings,
        ollama.named,
        ollama.is_load,
    )
    for translate in translations:
        try:
            translate(body)
        except ApiError as error:
            assert error.status == 400  # noqa: PT017


@given(st.lists(turns, min_size=1, max_size=6))
def test_every_result_follows_the_turn_that_called(messages):
    try:
        found = chat(*messages)["messages"]
    except ApiError as error:
        assert error.param.startswith("messages[")  # noqa: PT017
        return
    open_calls = set()
    for message in found:
        if message["role"] == "tool":
            assert message["tool_call_id"] in open_calls
        else:
            open_calls = {call["id"] for call in message.get("tool_calls", ())}

"""The parameters that hold an answer to a form, over HTTP: what reaches the engine, is told, is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.stubs.byte_matcher import admits
from tests.stubs.model_dir import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
LOOSE = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
GBNF = 'root ::= "yes" | "no" [!]*'
LARK = 'start: "yes" | "no" /!*/'
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


XML_TEMPLATE = """\
{%- if tools %}{{ tools | tojson }} <tool_call><function=...><parameter=...>{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls %}<tool_call>
<function={{ call.function.name }}>
{% for key, value in (call.function.arguments or {}).items() %}<parameter={{ key }}>
{{ value if value is string else value | tojson }}
</parameter>
{% endfor %}</function>
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def named(schema: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **options}}


async def grammar_of(neuron, endpoint: str, **options: Any) -> str:
    """The grammar that reached the engine."""
    if endpoint == "chat":
        answer = (await neuron.chat("sampling", **options)).json()
        return json.loads(answer["choices"][0]["message"]["content"])["grammar"]
    body = {"model": "m", "prompt": "sampling", "max_tokens": 4000} | options
    answer = (await neuron.http.post("/v1/completions", json=body)).json()
    return json.loads(answer["choices"][0]["text"])["grammar"]


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize(
    ("options", "admitted", "refused"),
    [
        ({"response_format": {"type": "json_object"}}, '{"x": 1}', "[]"),
        ({"response_format": named(SCHEMA)}, '{"a": 1}', '{"a": "x"}'),
        ({"structured_outputs": {"json": SCHEMA}}, '{"a": 1}', "{}"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, '{"a": 1}', "{}"),
        ({"structured_outputs": {"json_object": True}}, '{"x": 1}', "1"),
        ({"structured_outputs": {"choice": ["yes", 'a "b"']}}, 'a "b"', "no"),
        ({"structured_outputs": {"regex": r"^\d{2}/[a-z]+$"}}, "12/ab", "12/"),
        ({"structured_outputs": {"grammar": GBNF}}, "no!!", "yes!"),
        ({"structured_outputs": {"grammar": LARK}}, "no!!", "maybe"),
        ({"guided_json": SCHEMA}, '{"a": 1}', "{}"),
        ({"guided_regex": "a|b"}, "b", "c"),
        ({"guided_choice": ["x"]}, "x", "y"),
        ({"guided_grammar": LARK, "structured_outputs": {"disable_any_whitespace": False}}, "yes", "x"),
    ],
)
async def test_an_answer_is_held_to_its_form(neuron, endpoint, options, admitted, refused):
    grammar = await grammar_of(neuron, endpoint, **options)
    assert admits(grammar, admitted)
    assert not admits(grammar, refused)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"structured_outputs": {"structural_tag": {}}}, "unsupported_parameter",
         "structured_outputs.structural_tag"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "unsupported_parameter",
         "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"disable_any_whitespace": True}}, "unsupported_parameter",
         "structured_outputs.disable_any_whitespace"),
        ({"structured_outputs": {"jsn": {}}}, "unknown_parameter", "structured_outputs.jsn"),
        ({"structured_outputs": {"json": "{"}}, "invalid_request_body", "structured_outputs.json"),
        ({"guided_json": "[]"}, "invalid_request_body", "guided_json"),
        ({"guided_choice": []}, "invalid_request_body", "guided_choice"),
        ({"guided_choice": [""]}, "invalid_request_body", "guided_choice[0]"),
        ({"structured_outputs": {"choice": ["a"], "regex": "a"}}, "invalid_request_body",
         "structured_outputs.choice"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "invalid_request_body", "guided_choice"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "invalid_request_body",
         "guided_regex"),
        ({"guided_regex": "a", "min_tokens": 2}, "invalid_request_body", "min_tokens"),
        ({"guided_regex": "a", "ignore_eos": True}, "invalid_request_body", "ignore_eos"),
        ({"guided_regex": "("}, "invalid_schema", "guided_regex"),
        ({"guided_regex": "a(?=b)"}, "invalid_schema", "guided_regex"),
        ({"guided_grammar": "start: nothing"}, "invalid_schema", "guided_grammar"),
        ({"guided_grammar": "nothing"}, "invalid_schema", "guided_grammar"),
        ({"guided_json": {"type": "objekt"}}, "invalid_schema", "guided_json"),
        ({"response_format": named(LOOSE, strict=True)}, "invalid_schema",
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema"}}, "invalid_request_body", "response_format.json_schema"),
    ],
)  # fmt: skip
async def test_a_form_that_cannot_be_had_is_refused_by_name(neuron, path, options, code, param):
    prompt = {"messages": [{"role": "user", "content": "echo x"}]} if "chat" in path else {"prompt": "x"}
    answer = await neuron.http.post(path, json={"model": "m"} | prompt | options)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert error["message"].startswith(param) or code == "unknown_parameter"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [TOOL], "tool_choice": "required", "guided_regex": "a"}, "guided_regex"),
        ({"messages": [{"role": "assistant", "content": "x"}], "continue_final_message": True,
          "guided_choice": ["a"]}, "continue_final_message"),
    ],
)  # fmt: skip
async def test_a_form_contradicts_a_forced_call_and_a_continuation(neuron, options, param):
    error = (await neuron.chat("echo x", **options)).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request_body", param)


@pytest.mark.parametrize("type_", ["string", "array", ["string", "null"]])
async def test_arguments_are_objects(neuron, type_):
    tools = [TOOL, {"type": "function", "function": {"name": "g", "parameters": {"type": type_}}}]
    answer = await neuron.chat("echo x", tools=tools)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools[1].function.parameters"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_not_enforced_is_told_in_a_header(neuron, stream):
    answer = await neuron.chat("echo x", response_format=named(LOOSE), stream=stream)
    assert answer.headers["x-cortex-unenforced"] == (
        "response_format.json_schema.schema/properties/a/uniqueItems"
    )
    body = {"model": "m", "prompt": "echo x", "guided_json": LOOSE, "stream": stream}
    answer = await neuron.http.post("/v1/completions", json=body)
    assert answer.headers["x-cortex-unenforced"] == "guided_json/properties/a/uniqueItems"
    answer = await neuron.chat("echo x", response_format=named(SCHEMA), stream=stream)
    assert "x-cortex-unenforced" not in answer.headers


async def test_a_tool_that_is_not_strict_may_be_called_with_what_can_be_enforced(neuron):
    odd = {"type": "object", "properties": {"a b": {"type": "objekt"}}}
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": LOOSE}},
        {"type": "function", "function": {"name": "g", "parameters": odd}},
    ]
    answer = await neuron.chat("echo x", tools=tools, tool_choice="required")
    assert answer.status_code == 200
    told = answer.headers["x-cortex-unenforced"].split(", ")
    assert told == ["tools[0].function.parameters/properties/a/uniqueItems", "tools[1].function.parameters"]


async def test_a_tool_that_is_not_strict_is_outlined_where_the_notation_says_no_more(neuron, tmp_path):
    await neuron.load(write_model(tmp_path / "xml", template=XML_TEMPLATE), "xml")
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}, "required": ["a"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    answer = await neuron.chat("echo x", model="xml", tools=tools, tool_choice="required")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-cortex-unenforced"] == "tools[0].function.parameters"
    tools[0]["function"]["strict"] = True
    answer = await neuron.chat("echo x", model="xml", tools=tools, tool_choice="required")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_schema")


async def test_a_tool_that_is_not_strict_may_have_a_parameter_that_the_notation_cannot_write(
    neuron, tmp_path
):
    await neuron.load(write_model(tmp_path / "xml", template=XML_TEMPLATE), "xml")
    parameters = {"type": "object", "properties": {"": {}}, "required": [""]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    answer = await neuron.chat("echo x", model="xml", tools=tools, tool_choice="required")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-cortex-unenforced"] == "tools[0].function.parameters"


async def test_many_places_are_told_in_part(neuron):
    items = {"type": "array", "uniqueItems": True}
    schema = {"type": "object", "properties": {f"é{i}": items for i in range(30)}}
    told = (await neuron.chat("echo x", response_format=named(schema))).headers["x-cortex-unenforced"]
    assert len(told) <= 512
    *places, rest = told.split(", ")
    assert places[1] == "response_format.json_schema.schema/properties/%C3%A91/uniqueItems"
    assert rest == f"and {30 - len(places)} more"

from __future__ import annotations

import json
import logging

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES = [{"role": "user", "content": "echo hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}
BROKEN_SCHEMA = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def allowed(mode, *names):
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "malformed_json", None),
        (b"{", "malformed_json", None),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}]} x', "malformed_json", None),
        (b'{"model": "\xff", "messages": []}', "malformed_json", None),
        (b'{"metadata": {"a": ' + b"[" * 100_000, "malformed_json", None),
        (b"[]", "invalid_request_body", None),
        (b'{"model": "m"}', "invalid_request_body", "messages"),
    ],
)
async def test_malformed_bodies_are_refused(neuron, body, code, param):
    answer = await neuron.http.post("/v1/chat/completions", content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


async def test_a_request_that_is_no_http_is_not_blamed_on_its_json(neuron):
    answer = await neuron.http.post(
        "/v1/chat/completions", content=b"{}", headers={"content-encoding": "gzip"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": None}, "invalid_request_body", "model"),
        ({"model": 5}, "invalid_request_body", "model"),
        ({"messages": []}, "invalid_request_body", "messages"),
        ({"messages": [{"content": "x"}]}, "invalid_request_body", "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_request_body", "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_request_body", "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "invalid_request_body", "messages[0].content"),
        ({"messages": [*MESSAGES, {"role": "user", "content": [IMAGE]}]}, "unsupported_parameter",
         "messages[1].content[0]"),
        ({"temperature": "hot"}, "invalid_request_body", "temperature"),
        ({"temperature": 2.5}, "invalid_request_body", "temperature"),
        ({"top_p": -0.1}, "invalid_request_body", "top_p"),
        ({"top_k": 1.5}, "invalid_request_body", "top_k"),
        ({"top_k": 2**64}, "invalid_request_body", "top_k"),
        ({"seed": 2**64}, "invalid_request_body", "seed"),
        ({"min_tokens": 2**64, "max_tokens": 2**64}, "invalid_request_body", "min_tokens"),
        ({"stop_token_ids": [2**64]}, "invalid_request_body", "stop_token_ids[0]"),
        ({"max_tokens": 0}, "invalid_request_body", "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "invalid_request_body", "max_tokens"),
        ({"max_tokens": 1, "min_tokens": 2}, "invalid_request_body", "min_tokens"),
        ({"stop": ["x"] * 17}, "invalid_request_body", "stop"),
        ({"stop": [""]}, "invalid_request_body", "stop"),
        ({"stream_options": {"include_usage": True}}, "invalid_request_body", "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "unknown_parameter", "stream_options.x"),
        ({"temprature": 1}, "unknown_parameter", "temprature"),
        ({"n": 0}, "invalid_request_body", "n"),
        ({"n": 129}, "invalid_request_body", "n"),
        ({"logprobs": 3}, "invalid_request_body", "logprobs"),
        ({"top_logprobs": 3}, "invalid_request_body", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_request_body", "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "invalid_request_body", "logit_bias"),
        ({"logit_bias": {"5": 101}}, "invalid_request_body", "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "invalid_request_body", "logit_bias"),
        ({"response_format": {"type": "xml"}}, "invalid_request_body", "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "invalid_request_body", "response_format.json_schema"),
        ({"response_format": {"type": "text", "json_schema": {"name": "x"}}}, "invalid_request_body",
         "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "min_tokens": 3}, "invalid_request_body", "min_tokens"),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "invalid_request_body",
         "ignore_eos"),
        ({"tools": [TOOL, TOOL]}, "invalid_request_body", "tools[1].function.name"),
        ({"tools": [TOOL], "tool_choice": "required", "min_tokens": 3}, "invalid_request_body", "min_tokens"),
        ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
        ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
        ({"tool_choice": "required"}, "invalid_request_body", "tool_choice"),
        ({"tool_choice": "always"}, "invalid_request_body", "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "invalid_request_body",
         "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
         "invalid_request_body", "tool_choice.function.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "invalid_request_body",
         "tool_choice.function"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "invalid_request_body", "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": allowed("auto", "f", "g")}, "invalid_request_body",
         "tool_choice.allowed_tools.tools[1].function.name"),
        ({"tools": [TOOL], "tool_choice": allowed("auto")}, "invalid_request_body",
         "tool_choice.allowed_tools.tools"),
        ({"tools": [TOOL], "tool_choice": allowed("none", "f")}, "invalid_request_body",
         "tool_choice.allowed_tools.mode"),
        ({"tools": [TOOL], "tool_choice": allowed("auto", "f"), "min_tokens": 3}, "invalid_request_body",
         "min_tokens"),
        ({"max_completion_tokens": 0}, "invalid_request_body", "max_completion_tokens"),
        ({"verbosity": "loud"}, "invalid_request_body", "verbosity"),
        ({"reasoning_effort": 3}, "invalid_request_body", "reasoning_effort"),
        ({"tools": [{"type": "function", "function": {}}]}, "invalid_request_body", "tools[0].function.name"),
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(neuron, change, code, param):
    body = {"model": "m", "messages": MESSAGES} | change
    for path in ("/v1/chat/completions", "/tokenize"):
        answer = await neuron.http.post(path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
        assert param in error["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": BROKEN_SCHEMA, "strict": True},
                }
            },
            "response_format.json_schema.schema",
        ),
        (
            {
                "tools": [
                    TOOL,
                    {
                        "type": "function",
                        "function": {"name": "g", "strict": True, "parameters": BROKEN_SCHEMA},
                    },
                ]
            },
            "tools[1].function.parameters",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_that_cannot_be_enforced_is_refused_with_the_reason(neuron, change, param, stream):
    answer = await neuron.chat("echo x", stream=stream, **change)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_schema", param)
    assert error["message"].startswith(f"{param}/properties/a/uniqueItems: a grammar cannot")


COMPLETION = {"model": "m", "prompt": "x"}


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"prompt": None}, "invalid_request_body", "prompt"),
        ({"prompt": []}, "invalid_request_body", "prompt"),
        ({"prompt": ["a", ""]}, "invalid_request_body", "prompt"),
        ({"prompt": [1, "a"]}, "invalid_request_body", "prompt"),
        ({"prompt": [[1], []]}, "invalid_request_body", "prompt"),
        ({"prompt": {"a": 1}}, "invalid_request_body", "prompt"),
        ({"prompt": [2**32], "echo": True}, "invalid_request_body", "prompt[0]"),
        ({"prompt": [[1], [2**64]]}, "invalid_request_body", "prompt[1][0]"),
        ({"prompt": ["a"] * 65, "n": 2}, "invalid_request_body", "prompt"),
        ({"suffix": "x"}, "unsupported_parameter", "suffix"),
        ({"best_of": 3}, "unsupported_parameter", "best_of"),
        ({"logprobs": 21}, "invalid_request_body", "logprobs"),
        ({"messages": []}, "unknown_parameter", "messages"),
        ({"stop": [""]}, "invalid_request_body", "stop"),
    ],
)
async def test_a_wrong_parameter_of_a_completion_is_named(neuron, change, code, param):
    answer = await neuron.http.post("/v1/completions", json=COMPLETION | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert param in error["message"]


async def test_a_missing_model_has_its_own_code(neuron):
    answer = await neuron.http.post("/v1/chat/completions", json={"messages": MESSAGES})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "missing_model_field")


async def test_unloaded_model_is_not_found(neuron):
    answer = await neuron.chat("hi", model="gpt-5")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "'m'" in error["message"]


async def test_a_long_name_is_repeated_in_part(neuron):
    answer = await neuron.chat("hi", model="m" * 100_000)
    message = answer.json()["error"]["message"]
    assert message.endswith("loaded here: 'm'.")
    assert len(message) < 500


async def test_lone_surrogates_are_answered(neuron):
    content = b'{"model": "m", "messages": [{"role": "user", "content": "echo \\ud800"}]}'
    answer = await neuron.http.post("/v1/chat/completions", content=content)
    assert answer.status_code == 400


async def test_refusal_of_the_chat_template_is_a_400(neuron):
    kwargs = {"enable_thinking": True, "add_generation_prompt": True}
    assert (await neuron.chat("echo x", chat_template_kwargs=kwargs)).status_code == 200
    call = {"function": {"name": "f", "arguments": "x"}}
    messages = [{"role": "assistant", "tool_calls": [call]}, *MESSAGES]
    assert (await neuron.chat("", messages=messages)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_engine_keeps_its_status(neuron, stream):
    answer = await neuron.chat("refuse queue_full", stream=stream)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["code"] == "queue_full"
    answer = await neuron.chat("long", stream=stream)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert answer.json()["error"]["param"] == "messages"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/models", 405, "method_not_allowed"),
    ],
)
async def test_unknown_paths_and_methods_have_the_envelope(neuron, method, path, status, code):
    answer = await neuron.http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_unexpected_exception_is_a_500_in_the_envelope(neuron, monkeypatch, caplog):
    monkeypatch.setattr(neuron.daemon, "health", lambda: 1 / 0)
    answer = await neuron.http.get("/health")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "ZeroDivisionError" in caplog.text


async def test_every_request_leaves_one_log_line(neuron, caplog):
    caplog.set_level(logging.INFO, "neuron.http")
    await neuron.http.post(
        "/v1/chat/completions", json={"model": "m", "messages": MESSAGES}, headers={"x-request-id": "r1"}
    )
    await neuron.chat("echo hi", stream=True, temperature=9)
    good, bad = [vars(record) for record in caplog.records if record.name == "neuron.http"]
    assert (good["request_id"], good["status"], good["model"], good["finish_reason"]) == (
        "r1",
        200,
        "m",
        "stop",
    )
    assert (good["completion_tokens"], good["path"]) == (2, "/v1/chat/completions")
    assert good["duration_ms"] >= good["ttft_ms"] >= 0
    assert (bad["status"], bad["code"]) == (400, "invalid_request_body")


async def test_the_log_line_says_how_many_calls_were_none(neuron, caplog):
    caplog.set_level(logging.INFO, "neuron.http")
    tool = {"type": "function", "function": {"name": "f"}}
    await neuron.chat("echo <tool_call>broken</tool_call>", tools=[tool])
    await neuron.chat("echo plain", tools=[tool])
    broken, plain = [vars(record) for record in caplog.records if record.name == "neuron.http"]
    assert broken["malformed_calls"] == 1
    assert "malformed_calls" not in plain


async def test_openapi_page_describes_every_operation(neuron):
    schema = (await neuron.http.get("/openapi.json")).json()
    assert "/v1/chat/completions" in schema["paths"]
    assert "/models/{model_id}/endpoint" in schema["paths"]
    assert "min_p" in schema["components"]["schemas"]["ChatBody"]["properties"]
    references = [part.split('"')[0] for part in json.dumps(schema).split('"#/components/schemas/')[1:]]
    assert set(references) <= set(schema["components"]["schemas"])


SAID = {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"messages": [SAID], "add_generation_prompt": True}, "add_generation_prompt"),
        ({"messages": MESSAGES}, "last message"),
        ({"messages": [SAID], "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_continue_final_message_refuses_what_cannot_be_continued(neuron, options, words):
    error = (await neuron.chat("", continue_final_message=True, **options)).json()["error"]
    assert error["param"] == "continue_final_message"
    assert words in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 3_000_000}]}, "messages"),
        ("/v1/completions", {"prompt": "x" * 3_000_000}, "prompt"),
        ("/v1/completions", {"prompt": "x" * 40_000}, "prompt"),
        ("/tokenize", {"prompt": "x" * 3_000_000}, "prompt"),
    ],
)
async def test_a_text_far_beyond_the_context_is_not_read_to_its_end(neuron, path, body, param):
    answer = await neuron.http.post(path, json={"model": "m"} | body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
    least = int(error["message"].partition("at least ")[2].partition(" ")[0])
    assert 4096 < least < len(str(body)) - 1000


async def test_a_chat_of_very_many_messages_is_refused(neuron):
    messages = [{"role": "user", "content": "x"}] * 10_001
    answer = await neuron.http.post("/v1/chat/completions", json={"model": "m", "messages": messages})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "too_many_messages", "messages")
    assert "10000" in error["message"]

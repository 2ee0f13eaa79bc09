"""What every dialect's endpoint passes on, refuses and answers."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest
from prometheus_client import REGISTRY

from fleet.gateway.dialects import chat, chat_body
from fleet.snapshot import NodeConfig, ProfileView
from neuron.wire import ApiError
from tests.stubs.fake_node import head, refuse

ANTHROPIC = {"anthropic-version": "2023-06-01"}
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def say(payload):
    async def answer(request, writer):
        body = json.dumps(payload).encode()
        writer.write(head(content_length=len(body)) + body)

    return answer


async def profile(house, model: str, *capabilities: str) -> None:
    nodes = {node.name: NodeConfig(node.name, node.url) for node in house.nodes}
    house.control.change(nodes=nodes, profiles={model: ProfileView(model, capabilities=capabilities)})
    await house.until(lambda snapshot: model in snapshot.configuration.profiles)


async def embedder(house) -> None:
    await serving(house, "e", "embeddings")


async def serving(house, model: str, capability: str) -> None:
    await house.node.set_model(model)
    house.node.models[model].capabilities = [capability]
    await house.node.set_model("x")  # publishes both
    await house.until(
        lambda snapshot: any(view.capabilities == (capability,) for _, view in snapshot.replicas(model))
    )


VECTORS = {
    "object": "list",
    "model": "e",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}


async def test_embeddings_pass_as_they_are_and_are_recorded(house):
    await embedder(house)
    house.node.answer = say(VECTORS)
    raw = b'{ "model": "e", "input": ["a b c"] }'
    response = await house.client.post("/v1/embeddings", content=raw)
    assert response.json() == VECTORS
    assert house.node.requests[0].body == raw
    assert house.node.requests[0].path == "/v1/embeddings"
    record = await house.record()
    assert (record.dialect, record.prompt_tokens, record.completion_tokens) == ("openai-embeddings", 3, 0)


RANKED = {"model": "r", "results": [{"index": 1, "relevance_score": 0.9}], "usage": {"total_tokens": 5}}


@pytest.mark.parametrize(
    ("path", "sent", "at_node"),
    [
        ("/v1/rerank", {"query": "a", "documents": ["b", "c"]}, "/v1/rerank"),
        ("/v2/rerank", {"query": "a", "documents": ["b", "c"], "top_n": 1}, "/v1/rerank"),
        ("/v1/score", {"text_1": "a", "text_2": ["b", "c"]}, "/v1/score"),
    ],
)
async def test_rankings_pass_as_they_are(house, path, sent, at_node):
    await serving(house, "r", "rerank")
    house.node.answer = say(RANKED)
    response = await house.client.post(path, json={"model": "r"} | sent)
    assert response.json() == RANKED
    assert (house.node.requests[0].path, house.node.requests[0].json) == (at_node, {"model": "r"} | sent)
    for field in set(sent) - {"top_n"}:
        response = await house.client.post(path, json={"model": "r"} | sent | {field: None})
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)


async def test_a_model_that_does_not_rank_is_not_asked_to(house):
    await profile(house, "m", "chat")
    response = await house.client.post("/v1/rerank", json={"model": "m", "query": "a", "documents": ["b"]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "wrong_modality")


async def test_the_sdk_embeds(house):
    await embedder(house)
    house.node.answer = say(VECTORS)
    async with openai.AsyncOpenAI(base_url=f"{house.client.base_url}/v1", api_key="none") as client:
        found = await client.embeddings.create(model="e", input="a b c", encoding_format="float")
    assert found.data[0].embedding == [0.5, 0.25]


async def test_completions_pass_as_they_are(house):
    answer = {"id": "c", "object": "text_completion", "model": "m", "choices": [{"index": 0, "text": " you"}]}
    house.node.answer = say(answer)
    async with openai.AsyncOpenAI(base_url=f"{house.client.base_url}/v1", api_key="none") as client:
        found = await client.completions.create(model="m", prompt=["How are"], max_tokens=4, logprobs=2)
    assert found.choices[0].text == " you"
    request = house.node.requests[0]
    assert (request.path, request.json["prompt"], request.json["logprobs"]) == (
        "/v1/completions",
        ["How are"],
        2,
    )
    assert (await house.record()).dialect == "openai-completions"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_completion_must_look_like_reaches_the_node(house, stream):
    guides = {
        "structured_outputs": {"choice": ["a", "b"]},
        "guided_regex": "[ab]+",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}},
        },
    }
    body = {"model": "m", "prompt": "x", "stream": stream, "max_tokens": 0, "echo": None} | guides
    response = await house.client.post("/v1/completions", json=body)
    assert response.status_code == 200
    sent = house.node.requests[0].json
    assert sent == body | ({"stream_options": {"include_usage": True}} if stream else {})


async def test_a_streamed_completion_is_recorded_with_its_usage(house):
    response = await house.client.post("/v1/completions", json={"model": "m", "prompt": "Hi", "stream": True})
    assert response.text.endswith("data: [DONE]\n\n")
    assert "usage" not in response.text
    record = await house.record()
    assert (record.prompt_tokens, record.completion_tokens) == (7, 3)


@pytest.mark.parametrize(
    ("path", "model", "body", "lacks"),
    [
        ("/v1/embeddings", "m", {"input": "x"}, "embeddings"),
        ("/v1/completions", "e", {"prompt": "x"}, "completions"),
        ("/v1/chat/completions", "e", {"messages": [{"role": "user", "content": "x"}]}, "chat"),
        ("/v1/responses", "e", {"input": "x"}, "chat"),
        ("/v1/messages", "e", {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}, "chat"),
    ],
)
async def test_a_model_is_not_asked_for_what_it_cannot_do(house, path, model, body, lacks):
    await embedder(house)
    response = await house.client.post(path, json={"model": model} | body)
    assert response.status_code == 400
    assert f"'{model}' does not do {lacks}" in response.json()["error"]["message"]
    assert not house.node.requests


async def test_a_nodes_refusal_keeps_openais_envelope(house):
    house.node.answer = refuse(400, "unsupported_parameter", "suffix is not supported")
    response = await house.client.post("/v1/completions", json={"model": "m", "prompt": "x", "suffix": "y"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_parameter"


# --- pictures ---

CHAT_PICTURE = {
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}]
}
SOURCE = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
MESSAGES_PICTURE = {
    "max_tokens": 1,
    "messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}],
}
RESPONSES_PICTURE = {
    "input": [{"role": "user", "content": [{"type": "input_image", "image_url": PICTURE, "detail": "auto"}]}]
}
PICTURES = [
    ("/v1/chat/completions", CHAT_PICTURE),
    ("/v1/messages", MESSAGES_PICTURE),
    ("/v1/messages/count_tokens", MESSAGES_PICTURE),
    ("/v1/responses", RESPONSES_PICTURE),
]


async def give_sight(house) -> None:
    house.node.models["m"].capabilities.append("vision")
    await house.node.set_model("x")  # publishes both
    await house.until(lambda snapshot: "vision" in snapshot.replicas("m")[0][1].capabilities)


@pytest.mark.parametrize(("path", "body"), PICTURES)
async def test_a_picture_for_a_blind_model_is_refused_by_the_models_name(house, path, body):
    response = await house.client.post(path, json={"model": "m"} | body)
    assert response.status_code == 400
    assert "'m' does not do vision" in response.json()["error"]["message"]
    assert not house.node.requests


@pytest.mark.parametrize(("path", "body"), PICTURES[:2] + PICTURES[3:])
async def test_a_picture_reaches_a_model_that_sees(house, path, body):
    await give_sight(house)
    response = await house.client.post(path, json={"model": "m"} | body)
    assert response.status_code == 200
    (message,) = house.node.requests[0].json["messages"]
    assert message["content"][0]["image_url"]["url"] == PICTURE


async def test_a_video_needs_a_model_that_sees_and_reaches_it_as_it_is(house):
    part = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}, "fps": 1}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    refused = await house.client.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert "'m' does not do vision" in refused.json()["error"]["message"]
    await give_sight(house)
    assert (await house.client.post("/v1/chat/completions", json=body)).status_code == 200
    assert house.node.requests[0].json["messages"] == body["messages"]


# --- the system prompt belongs to the application ---


async def reached(house, path: str, body) -> list:
    assert (await house.client.post(path, json={"model": "m"} | body)).status_code == 200
    return house.node.requests[-1].json["messages"]


USER = {"role": "user", "content": "Hi"}


async def test_nothing_is_added_where_no_system_prompt_is_sent(house):
    assert await reached(house, "/v1/chat/completions", {"messages": [USER]}) == [USER]
    assert await reached(house, "/v1/messages", {"max_tokens": 1, "messages": [USER]}) == [USER]
    assert await reached(house, "/v1/responses", {"input": "Hi"}) == [USER]


async def test_system_prompts_arrive_as_they_are_and_where_they_are(house):
    first, second = {"role": "system", "content": "A"}, {"role": "system", "content": "B"}
    between = {"messages": [first, USER, second, USER]}
    assert await reached(house, "/v1/chat/completions", between) == between["messages"]
    asked = {"max_tokens": 1, "system": "A", "messages": [USER, second, USER]}
    assert await reached(house, "/v1/messages", asked) == [first, USER, second, USER]
    blocks = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    asked = {"max_tokens": 1, "system": blocks, "messages": [USER]}
    assert await reached(house, "/v1/messages", asked) == [{"role": "system", "content": blocks}, USER]
    developer = {"role": "developer", "content": "B"}
    asked = {"instructions": "A", "input": [developer, USER]}
    assert await reached(house, "/v1/responses", asked) == [first, developer, USER]


async def test_an_attribution_line_is_dropped_and_counted(house):
    def dropped():
        return REGISTRY.get_sample_value("cortex_attributions_dropped_total")

    before = dropped()
    note = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.7; cch=0f3a1;"}
    asked = {"max_tokens": 1, "system": [note, {"type": "text", "text": "A"}], "messages": [USER]}
    assert await reached(house, "/v1/messages", asked) == [{"role": "system", "content": "A"}, USER]
    assert await reached(house, "/v1/messages", asked | {"system": "A"})
    assert dropped() == before + 1


# --- no answer, only its prompt ---


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_sdk_warms_a_prompt_without_an_answer(house, stream):
    ask = {"model": "m", "max_tokens": 0, "messages": [USER]}
    async with anthropic.AsyncAnthropic(base_url=str(house.client.base_url), api_key="none") as client:
        if stream:
            async with client.messages.stream(**ask) as answer:
                found = await answer.get_final_message()
        else:
            found = await client.messages.create(**ask)
    assert (found.content, found.stop_reason) == ([], "max_tokens")
    assert (found.usage.input_tokens + found.usage.cache_read_input_tokens, found.usage.output_tokens) == (
        7,
        0,
    )
    assert house.node.requests[-1].json["max_tokens"] == 1


# --- the list of models ---


async def test_models_in_either_shape(house):
    await profile(house, "m", "chat")
    ours = (await house.client.get("/v1/models")).json()
    assert (ours["object"], ours["data"][0]["id"]) == ("list", "m")
    theirs = (await house.client.get("/v1/models", headers=ANTHROPIC)).json()
    assert theirs["data"][0] | {"created_at": ""} == {
        "type": "model",
        "id": "m",
        "display_name": "m",
        "created_at": "",
    }
    assert (theirs["has_more"], theirs["first_id"], theirs["last_id"]) == (False, "m", "m")
    one = (await house.client.get("/v1/models/m", headers=ANTHROPIC)).json()
    assert one == theirs["data"][0]
    missing = await house.client.get("/v1/models/nope", headers=ANTHROPIC)
    assert (missing.status_code, missing.json()["type"]) == (404, "error")


async def test_anthropics_sdk_pages_through_the_models(house):
    for name in ("a", "b", "c"):
        await house.node.set_model(name)
        await house.until_routable(name)
    async with anthropic.AsyncAnthropic(base_url=str(house.client.base_url), api_key="none") as client:
        names = [model.id async for model in client.models.list(limit=3)]
        assert names == ["a", "b", "c", "m"]
        back = await client.models.list(before_id="m", limit=2)
        assert ([model.id for model in back.data], back.has_more) == (["b", "c"], True)
        assert (await client.models.retrieve("a")).display_name == "a"
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            await client.models.list(limit=0)


CHAT_SCHEMA = "response_format.json_schema.schema/properties/a"
WORDS = [
    # chat's, Anthropic's, those of the Responses API
    ("messages[3].content", "messages", "input"),
    ("messages", "messages", "input"),
    ("max_tokens", "max_tokens", "max_output_tokens"),
    ("stop", "stop_sequences", "stop"),
    ("stop_token_ids", "stop_token_ids", "stop_token_ids"),
    ("tools[1].function.parameters", "tools[1].input_schema", "tools"),
    ("tools[1].function.name", "tools[1].name", "tools"),
    ("tool_choice.function.name", "tool_choice.name", "tool_choice.name"),
    ("tool_choice.allowed_tools.tools[1].function.name", ..., "tool_choice.tools[1].name"),
    ("response_format", "output_config.format", "text.format"),
    (CHAT_SCHEMA, "output_config.format.schema/properties/a", "text.format.schema/properties/a"),
    ("reasoning_effort", "output_config.effort", "reasoning.effort"),
    ("chat_template_kwargs.enable_thinking", "thinking", "reasoning"),
    ("top_p", "top_p", "top_p"),
]


@pytest.mark.parametrize(("chats", "anthropics", "responses"), WORDS)
async def test_what_a_node_refuses_is_named_in_the_clients_words(house, chats, anthropics, responses):
    async def refused(request, writer):
        body = json.dumps({"error": {"message": "no", "type": "t", "code": "c", "param": chats}}).encode()
        writer.write(head(400, content_length=len(body)) + body)

    house.node.answer = refused
    answer = await house.client.post("/v1/responses", json={"model": "m", "input": "Hi"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, responses)
    if anthropics is not ...:
        ask = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
        answer = await house.client.post("/v1/messages", json=ask)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, f"{anthropics}: no")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "messages": []}',
        b'{"messages": [], "model": "m", "stream": true}',
        b'{"model": "m", "stream": true, "stream_options": null}',
        b'{"model": "m", "stream": true, "stream_options": {}}',
        b'{"model": "m", "stream": true, "stream_options": {"include_usage": false, "x": [1, 2.50]}}',
        b'{"model": "m", "stream": true, "stream_options": {"include_usage": true}}',
        b'{"model": "a", "stream": true, "model": "m"}',
        b'{"mod\\u0065l": "m", "stream": true, "max_tokens": 1.50}',
    ],
)
def test_a_body_is_the_same_call_with_and_without_a_full_parse(body, monkeypatch):
    calls = []
    for compiled in (True, False):
        monkeypatch.setattr(chat_body, "COMPILED", compiled)
        call = chat.CHAT.decode(body)
        facts = (call.model, call.stream, call.hide_usage, json.loads(call.body))
        calls.append((*facts, json.loads(chat_body.with_model(body, 'n"ä'))))
    assert calls[0] == calls[1]
    assert calls[0][0] == "m"


def test_a_body_nested_beyond_measure_is_refused():
    with pytest.raises(ApiError) as error:
        chat.CHAT.decode(b'{"model": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert (error.value.status, error.value.code) == (400, "malformed_json")

"""Nodes of kind `openai`: servers that are no neurons, through the gateway's API."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from fleet.gateway.nodes import watcher
from fleet.services.keys import digest
from fleet.snapshot import KeyView, NodeConfig
from tests.gateway.conftest import make_house
from tests.gateway.test_failures import error_of
from tests.stubs.fake_node import STREAM_HEAD, answer_hello, chunk, framed, head, refuse
from tests.stubs.fake_server import LISTS, FakeServer, _write, refuse_usage

SECRET = "sk-cortex-client"


@asynccontextmanager
async def beside(house, server, **settings):
    """The server as a node beside the house's own."""
    await server.start()
    settings = {"kind": "openai", "token": server.key or None} | settings
    path = settings.pop("path", server.prefix)
    config = NodeConfig(server.name, server.url + path, **settings)
    house.control.change(nodes={server.name: config} | dict(house.control.current.nodes))
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def fronted(server=None, *, routable=True, poll=None, **settings):
    """A gateway whose only node is a server."""
    server = server or FakeServer()
    poll = {"interval_s": 0.05} | (poll or {})
    async with (
        make_house(nodes=0, loaded=False, poll=poll) as house,
        beside(house, server, **settings),
    ):
        house.control.change(profiles={})
        await house.until(lambda snapshot: "server" in snapshot.nodes and not snapshot.configuration.profiles)
        house.server = server
        if routable:
            await house.until_routable()
        yield house


async def test_its_own_key_goes_to_it_and_nothing_of_the_client():
    async with fronted(FakeServer(key="server-key")) as house:
        house.control.change(keys={digest(SECRET): KeyView("c", digest(SECRET), priority=3)}, has_keys=True)
        await house.until(lambda snapshot: snapshot.configuration.has_keys)
        for name in ("authorization", "x-api-key"):
            value = f"Bearer {SECRET}" if name == "authorization" else SECRET
            ours = {name: value, "x-cortex-principal": "me", "cookie": "a=b", "x-request-id": "r1"}
            body = {"model": "m", "messages": []}
            answer = await house.client.post("/v1/chat/completions", json=body, headers=ours)
            assert answer.status_code == 200
            assert answer.headers["x-cortex-node"] == "server"
            sent = house.server.requests[-1].headers
            assert sent["authorization"] == "bearer server-key"
            assert set(sent) == {"host", "authorization", "content-type", "content-length", "x-request-id"}


@pytest.mark.parametrize("shape", LISTS)
async def test_its_models_are_listed_with_what_it_says_of_them(shape):
    server = FakeServer()
    server.list = LISTS[shape]
    async with fronted(server) as house:
        (model,) = (await house.client.get("/v1/models")).json()["data"]
        assert (model["id"], model["state"]) == ("m", "loaded")
        assert [node["name"] for node in model["nodes"]] == ["server"]
        assert model["context_length"] == (None if shape == "ollama" else 8192)
        assert (await house.chat(stream=True)).status_code == 200


@pytest.mark.parametrize(
    ("prefix", "endpoint"),
    [
        ("/v1", ""),
        ("/v1", "/v1"),
        ("/openai/v1", "/openai"),
        ("/v1beta/openai", "/v1beta/openai"),
        ("/api/v4", "/api/v4"),
    ],
)
async def test_the_base_url_may_end_in_a_version_or_not(prefix, endpoint):
    async with fronted(FakeServer(prefix=prefix), path=endpoint) as house:
        assert (await house.chat()).status_code == 200
        assert house.server.requests[-1].path == f"{prefix}/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_are_metered_and_recorded_like_others(stream):
    async with fronted() as house:
        answer = await house.chat(stream=stream)
        assert answer.status_code == 200
        assert "usage" not in answer.text or not stream
        record = await house.record()
        assert (record.node, record.outcome, record.model) == ("server", "ok", "m")
        assert (record.prompt_tokens, record.completion_tokens) == (7, 3)


async def test_health_runs_no_completion():
    async with fronted() as house:
        seen = house.server.polls
        async with asyncio.timeout(10):
            while house.server.polls < seen + 3:
                await asyncio.sleep(0.01)
        assert house.server.requests == []


async def test_anthropic_clients_are_answered_by_it():
    async with fronted() as house:
        body = {"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "x"}]}
        answer = await house.client.post("/v1/messages", json=body)
        assert "message_stop" in answer.text
        assert '"output_tokens":3' in answer.text.replace(" ", "")


async def test_its_models_under_other_names_and_no_others():
    server = FakeServer()
    server.list = {"data": [{"id": "vendor/big"}, {"id": "vendor/secret"}]}
    async with fronted(server, models={"m": "vendor/big", "gone": "vendor/gone"}) as house:
        assert [model["id"] for model in (await house.client.get("/v1/models")).json()["data"]] == ["m"]
        assert (await house.chat()).status_code == 200
        assert server.requests[-1].json["model"] == "vendor/big"
        assert (await house.chat("vendor/secret")).status_code == 404


async def test_a_server_without_a_list_serves_what_the_operator_names():
    server = FakeServer()
    server.list, server.list_status = {"detail": "Not Found"}, 404
    async with fronted(server, models={"m": "m"}) as house:
        assert (await house.chat()).status_code == 200


async def test_a_server_that_refuses_stream_options_streams_without_usage():
    async with fronted() as house:
        house.server.answer = refuse_usage
        for number in (1, 2):
            answer = await house.chat(stream=True)
            assert answer.text.rstrip().endswith("[DONE]")
            assert (await house.record(number)).outcome == "ok"
        assert len(house.server.requests) == 3  # it was asked for usage once
        house.server.answer = answer_hello


@pytest.mark.parametrize(("finish", "whole"), [("stop", True), (None, False)])
async def test_a_stream_without_done_is_whole_when_the_answer_was(finish, whole):
    async def answer(request, writer):
        writer.write(
            STREAM_HEAD + framed(chunk({"content": "Hi"})) + framed(chunk({}, finish)) + b"0\r\n\r\n"
        )

    async with fronted() as house:
        house.server.answer = answer
        text = (await house.chat(stream=True)).text
        assert text.endswith("data: [DONE]\n\n") is whole
        assert ("node_lost" in text) is not whole
        body = {"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "x"}]}
        messages = await house.client.post("/v1/messages", json=body)
        assert ("message_stop" in messages.text) is whole


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_key_it_does_not_accept_is_not_the_clients_fault(status):
    async with fronted() as house:
        house.server.answer = refuse(status, "invalid_api_key", "Incorrect API key provided: sk-12345")
        answer = await house.chat()
        assert (answer.status_code, error_of(answer)["code"]) == (502, "node_unauthorized")
        assert "server" in error_of(answer)["message"]
        assert "sk-12345" not in answer.text


async def test_a_wrong_key_opens_the_breaker_until_it_is_configured_anew():
    async with fronted() as house:
        house.server.answer = refuse(401, "invalid_api_key")
        for _ in range(3):
            assert (await house.chat()).status_code == 502
        assert len(house.server.requests) == 1
        assert (await house.client.get("/health")).json()["breakers"] == {"server": "open"}


async def test_a_wrong_key_shows_before_any_request():
    server = FakeServer(key="right")
    async with fronted(server, token="wrong", routable=False, poll={"misses_until_unhealthy": 1}) as house:
        await house.until(lambda snapshot: "API key" in (snapshot.nodes["server"].reason or ""))
        away = (await house.client.get("/health")).json()["away"]
        assert away == [
            {"node": "server", "reason": "does not accept the API key (GET /v1/models: 401)"},
        ]
        assert "right" not in str(away)
        server.key = "wrong"
        await house.until_routable()
        assert (await house.chat()).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (
            {"error": {"message": "no", "type": "BadRequestError", "param": "top_k", "code": 400}},
            400,
            "invalid_request",
            "no",
        ),
        (
            {"object": "error", "message": "bad", "type": "BadRequestError", "code": 400},
            400,
            "invalid_request",
            "bad",
        ),
        ({"error": {"message": "lite", "code": "400", "param": "top_k"}}, 400, "invalid_request", "lite"),
        ({"error": {"message": "odd", "code": "request 7f3a failed"}}, 400, "invalid_request", "odd"),
        ({"error": {"message": "long", "code": "x" * 65}}, 400, "invalid_request", "long"),
        ({"error": "model is busy"}, 503, "node_error", "model is busy"),
        ({"detail": "Not Found"}, 404, "not_found", "Not Found"),
        ({"error": {"message": "a", "code": "model_not_found"}}, 404, "not_found", "'server' answered 404"),
        (
            {"error": {"message": "This model's maximum context length is 9 tokens", "code": 400}},
            400,
            "context_length_exceeded",
            "9 tokens",
        ),
        (
            {"error": {"message": "too long", "type": "exceed_context_size_error", "code": 400}},
            400,
            "context_length_exceeded",
            "too long",
        ),
        ("nothing", 400, "node_error", "answered 400"),
    ],
)
async def test_errors_of_many_shapes_reach_the_client_in_its_envelope(body, status, code, words):
    async def answer(request, writer):
        _write(writer, status, body)

    async with fronted() as house:
        house.server.answer = answer
        response = await house.chat()
        assert response.status_code == (502 if body == "nothing" else status)
        assert error_of(response)["code"] == code
        assert words in error_of(response)["message"]
        param = (
            body["error"].get("param")
            if isinstance(body, dict) and isinstance(body.get("error"), dict)
            else None
        )
        assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [("7", "7"), ("0.5", "1"), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
async def test_its_time_to_retry_passes(retry_after, seconds):
    async with fronted() as house:
        house.server.answer = refuse(429, "rate_limit_exceeded", retry_after=retry_after)
        response = await house.chat()
        assert (response.status_code, response.headers.get("retry-after")) == (429, seconds)


async def test_what_it_lacks_another_node_answers():
    async with (
        make_house(poll={"interval_s": 0.05}) as house,
        beside(house, FakeServer("a-server")) as server,
    ):
        await house.until_routable(replicas=2)
        server.answer = refuse(404, "x")
        await house.node.set_model("m", running=3)
        await house.until(lambda snapshot: any(view.running for _, view in snapshot.replicas("m")))
        response = await house.chat()
        assert (response.status_code, response.headers["x-cortex-node"]) == (200, "n0")
        assert (await house.record()).retries == 1


async def test_no_more_requests_at_once_than_it_takes():
    started, go = asyncio.Semaphore(0), asyncio.Event()

    async def answer(request, writer):
        started.release()
        await go.wait()
        await answer_hello(request, writer)

    async with fronted(max_requests=2) as house:
        house.server.answer = answer
        asking = [asyncio.create_task(house.chat()) for _ in range(3)]
        await started.acquire()
        await started.acquire()
        async with asyncio.timeout(10):
            while not house.gateway.nodes.node("server").pool.waiting:
                await asyncio.sleep(0.01)
        assert len(house.server.requests) == 2
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 3


async def test_a_server_of_its_own_patience():
    async def answer(request, writer):
        await request.gone.wait()

    async with fronted(first_byte_timeout_s=0.1) as house:
        house.server.answer = answer
        assert error_of(await house.chat())["code"] == "node_unavailable"


async def test_a_server_that_is_asked_too_often_is_there(monkeypatch):
    monkeypatch.setattr(watcher, "REST_S", 0.02)
    async with fronted(poll={"misses_until_unhealthy": 1}) as house:
        house.server.list_status = 429
        seen = house.server.polls
        async with asyncio.timeout(10):
            while house.server.polls < seen + 3:
                await asyncio.sleep(0.01)
        assert (await house.chat()).status_code == 200
        assert (await house.client.get("/health")).json()["away"] == []


async def test_it_goes_away_and_comes_back():
    async with fronted(poll={"misses_until_unhealthy": 1}) as house:
        await house.server.stop()
        await house.until(lambda snapshot: not snapshot.nodes["server"].healthy)
        await house.server.start()
        await house.until_routable()
        assert (await house.chat()).status_code == 200


@pytest.mark.parametrize(
    "listed", [{"data": None}, {"data": []}, {"data": [{"id": 3}, {"id": ""}, "m", None]}]
)
async def test_a_server_without_models_is_healthy(listed):
    server = FakeServer()
    server.list = listed
    async with fronted(server, routable=False) as house:
        await house.until(lambda snapshot: snapshot.nodes["server"].healthy)
        assert (await house.chat()).status_code == 404


@pytest.mark.parametrize("listed", ["text", {"data": {"id": "m"}}, 3])
async def test_a_list_that_is_none_is_named(listed):
    server = FakeServer()
    server.list = listed
    async with fronted(server, routable=False, poll={"misses_until_unhealthy": 1}) as house:
        await house.until(lambda snapshot: "list of models" in (snapshot.nodes["server"].reason or ""))


async def test_tokens_are_counted_where_the_server_can():
    counted = {"count": 12, "max_model_len": 8192, "tokens": []}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}

    async def answer(request, writer):
        assert request.path == "/tokenize"
        _write(writer, 200, counted)

    async with fronted() as house:
        house.server.answer = answer
        response = await house.client.post("/v1/messages/count_tokens", json=body)
        assert response.json()["input_tokens"] == 12
        counted.clear()
        assert (await house.client.post("/v1/messages/count_tokens", json=body)).status_code == 502
        house.server.answer = refuse(404, "not_found", "File Not Found")
        response = await house.client.post("/v1/messages/count_tokens", json=body)
        assert response.status_code == 404
        assert "answered 404 to /tokenize" in response.json()["error"]["message"]


async def test_a_page_of_something_in_between_is_no_answer():
    async def answer(request, writer):
        page = b"<html>"
        writer.write(head(200, "text/html", content_length=len(page)) + page)

    async with fronted() as house:
        house.server.answer = answer
        assert error_of(await house.chat())["code"] == "node_unavailable"

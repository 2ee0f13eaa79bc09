from __future__ import annotations

import json

import pytest

from tests.gateway.conftest import make_house
from tests.stubs.fake_node import STREAM_HEAD, answer_hello, chunk, framed, head, refuse, sse


def error_of(response) -> dict:
    return response.json()["error"]


def last_event(text: str) -> dict:
    return json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))


async def cut_after_first_chunk(request, writer):
    writer.write(STREAM_HEAD + framed(chunk({"content": "Hel"})))
    await writer.drain()
    writer.transport.abort()


async def test_unknown_model(house):
    response = await house.chat("nope")
    assert response.status_code == 404
    error = error_of(response)
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        "model_not_found",
        "model",
    )
    assert "nope" in error["message"]
    assert (await house.record()).outcome == "rejected"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "malformed_json", None),
        (b"\xff\xfe", "malformed_json", None),
        (b"[]", "invalid_request_body", None),
        (b"{}", "missing_model_field", "model"),
        (b'{"model": 3}', "missing_model_field", "model"),
        (b'{"model": null}', "missing_model_field", "model"),
        (b'{"model": "m", "stream": "yes"}', "invalid_request_body", "stream"),
        (b'{"model": "m", "stream": true, "stream_options": 1}', "invalid_request_body", "stream_options"),
    ],
)
async def test_bad_bodies_name_the_field(house, body, code, param):
    response = await house.client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert (error_of(response)["code"], error_of(response)["param"]) == (code, param)
    assert not house.node.requests


async def test_body_over_the_limit():
    async with make_house(max_body_bytes=1000) as house:
        response = await house.chat(padding="x" * 2000)
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"


async def test_unknown_path_and_method(house):
    assert error_of(await house.client.get("/v1/nothing"))["code"] == "not_found"
    response = await house.client.get("/v1/chat/completions")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


async def test_node_that_is_down(house):
    house.gateway.loader.node_grace_s = 0.1
    await house.node.stop()
    response = await house.chat()
    assert (response.status_code, error_of(response)["code"]) == (503, "no_healthy_node")
    assert int(response.headers["retry-after"]) > 0


async def test_node_cut_within_a_stream_ends_in_an_error_event(house):
    house.node.answer = cut_after_first_chunk
    response = await house.chat(stream=True)
    assert response.status_code == 200
    assert "Hel" in response.text
    assert "[DONE]" not in response.text
    assert last_event(response.text)["error"]["code"] == "node_lost"
    record = await house.record()
    assert (record.outcome, record.error_code) == ("error", "node_lost")


async def test_node_cut_within_a_stream_is_an_error_event_for_anthropic_too(house):
    house.node.answer = cut_after_first_chunk
    body = {"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    response = await house.client.post("/v1/messages", json=body)
    assert "event: error" in response.text
    assert "message_stop" not in response.text


async def test_stream_without_done_is_not_a_clean_end(house):
    async def answer(request, writer):
        writer.write(STREAM_HEAD + framed(chunk({"content": "Hel"})) + b"0\r\n\r\n")

    house.node.answer = answer
    response = await house.chat(stream=True)
    assert last_event(response.text)["error"]["code"] == "node_lost"


async def test_error_event_of_the_node_passes_and_is_recorded(house):
    async def answer(request, writer):
        event = sse({"error": {"message": "worker died", "type": "api_error", "code": "worker_died"}})
        writer.write(STREAM_HEAD + framed(chunk({"content": "Hel"})) + framed(event) + b"0\r\n\r\n")

    house.node.answer = answer
    response = await house.chat(stream=True)
    assert last_event(response.text)["error"]["code"] == "worker_died"
    assert (await house.record()).outcome == "error"


async def test_cut_whole_answer_is_a_503(house):
    async def answer(request, writer):
        writer.write(head(content_length=1000) + b'{"id":')
        await writer.drain()
        writer.transport.abort()

    house.node.answer = answer
    response = await house.chat()
    assert (response.status_code, error_of(response)["code"]) == (503, "node_lost")


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01\x02 nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"x" * 200_000]
)
async def test_answer_that_is_not_http(house, garbage):
    async def answer(request, writer):
        writer.write(garbage)
        await writer.drain()
        writer.transport.abort()

    house.node.answer = answer
    response = await house.chat()
    assert (response.status_code, error_of(response)["code"]) == (503, "node_unavailable")
    house.node.answer = answer_hello
    assert (await house.chat()).status_code == 200


async def test_error_page_of_something_in_between(house):
    async def answer(request, writer):
        page = b"<html>Bad gateway</html>"
        writer.write(head(502, "text/html", content_length=len(page)) + page)

    house.node.answer = answer
    response = await house.chat()
    assert (response.status_code, error_of(response)["code"]) == (502, "node_error")


async def test_the_nodes_refusal_of_a_request_passes(house):
    house.node.answer = refuse(400, "context_length_exceeded", "too long: 9000 tokens")
    response = await house.chat()
    assert response.status_code == 400
    assert error_of(response)["code"] == "context_length_exceeded"
    assert "9000" in error_of(response)["message"]
    assert len(house.node.requests) == 1


async def test_busy_node_passes_its_retry_after(house):
    house.node.answer = refuse(429, "queue_full", retry_after=7)
    response = await house.chat()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"


async def test_wrong_token_is_the_operators_fault_not_the_clients(house):
    house.node.answer = refuse(401, "invalid_api_key")
    response = await house.chat()
    assert (response.status_code, error_of(response)["code"]) == (502, "node_unauthorized")


@pytest.mark.parametrize(
    "first", [refuse(503, "busy"), refuse(429, "queue_full"), refuse(404, "model_not_found")]
)
async def test_another_replica_answers(first):
    async with make_house(nodes=2) as house:
        house.nodes[0].answer = first
        await house.burden_all_but(house.nodes[0])
        response = await house.chat()
        assert response.status_code == 200
        assert response.headers["x-cortex-node"] == "n1"
        assert (await house.record()).retries == 1


async def test_another_replica_answers_for_a_dead_one():
    async with make_house(nodes=2) as house:
        house.nodes[0].answer = cut_before_the_head
        await house.burden_all_but(house.nodes[0])
        response = await house.chat(stream=True)
        assert "[DONE]" in response.text
        assert response.headers["x-cortex-node"] == "n1"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_a_node_may_have_begun_is_repeated_once_or_by_setting_never(stream):
    for repeat, asked in ((True, 2), (False, 1)):
        async with make_house(nodes=3, repeat_unanswered=repeat) as house:
            for node in house.nodes:
                node.answer = cut_before_the_head
            response = await house.chat(stream=stream)
            assert (response.status_code, error_of(response)["code"]) == (503, "node_lost")
            assert int(response.headers["retry-after"]) > 0
            assert sum(len(node.requests) for node in house.nodes) == asked


@pytest.mark.parametrize("stream", [False, True])
async def test_on_demand_never_holds_on_a_kept_connection_too(stream):
    async with make_house(repeat_unanswered=False) as house:
        assert (await house.chat(stream=stream)).status_code == 200  # the connection is kept
        house.node.answer = cut_before_the_head
        response = await house.chat(stream=stream)
        assert (response.status_code, error_of(response)["code"]) == (503, "node_lost")
        assert len(house.node.requests) == 2


async def test_a_node_that_cannot_be_reached_costs_no_repetition():
    async with make_house(nodes=3, repeat_unanswered=False) as house:
        for node in house.nodes[:2]:
            node.refuse_connections()
        await house.burden_all_but(house.nodes[0])
        response = await house.chat()
        assert response.status_code == 200
        assert int(response.headers["x-cortex-retries"]) >= 1


async def cut_before_the_head(request, writer):
    writer.transport.abort()


async def test_stale_connection_is_replaced_unseen(house):
    assert (await house.chat()).status_code == 200
    port = house.node.port
    await house.node.stop()
    house.node.port = port
    await house.node.start()
    await house.until_routable()
    assert (await house.chat()).status_code == 200


async def test_a_node_that_never_answers_is_given_up():
    async def answer(request, writer):
        await request.gone.wait()

    async with make_house(first_byte_timeout_s=0.2) as house:
        house.node.answer = answer
        response = await house.chat()
        assert (response.status_code, error_of(response)["code"]) == (503, "node_unavailable")


async def test_a_node_that_falls_silent_ends_in_an_error_event():
    async def answer(request, writer):
        writer.write(STREAM_HEAD + framed(chunk({"content": "Hel"})))
        await request.gone.wait()

    async with make_house(idle_timeout_s=0.2) as house:
        house.node.answer = answer
        response = await house.chat(stream=True)
        assert last_event(response.text)["error"]["code"] == "node_lost"


async def test_a_request_is_not_fed_to_a_third_worker_after_it_may_have_killed_two():
    async with make_house(nodes=3) as house:
        for node in house.nodes:
            node.answer = refuse(503, "worker_lost")
        response = await house.chat()
        assert (response.status_code, error_of(response)["code"]) == (503, "worker_lost")
        assert sum(len(node.requests) for node in house.nodes) == 2

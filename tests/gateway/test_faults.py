"""Nodes and clients that misbehave on the wire: one clean end for one client, and no effect on others."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from fleet.gateway.record import metrics
from tests.gateway.conftest import MODEL, make_house
from tests.stubs.fake_node import STREAM_HEAD, answer_hello, chunk, framed, head

REQUEST = json.dumps({"model": MODEL, "messages": [], "stream": True}).encode()
RAW = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(REQUEST)
    + REQUEST
)
WHOLE_STREAM = STREAM_HEAD + framed(chunk({"content": "Hel"}, "stop") + b"data: [DONE]\n\n") + b"0\r\n\r\n"
_ANSWER = json.dumps({"id": "c1", "choices": [{"index": 0, "message": {"content": "Hel"}}]}).encode()
WHOLE_ANSWER = head(content_length=len(_ANSWER)) + _ANSWER
FIRST = STREAM_HEAD + framed(chunk({"content": "Hel"}))


def raw_answer(data: bytes):
    async def answer(request, writer):
        writer.write(data)
        await writer.drain()
        writer.transport.abort() if len(data) < 1000 else writer.close()

    return answer


@pytest.mark.parametrize(
    "data",
    [
        FIRST + framed(b'data: {"id": "c1", "choi'),
        FIRST + framed('data: {"choices": [{"delta": {"content": "ü'.encode()[:-1]),
        FIRST + b"zz\r\nnot a size\r\n",
        FIRST + b"5\r\ntoo long for five\r\n",
        FIRST + framed(b"data: " + b"x" * 3_000_000),
        head(content_type="text/event-stream", content_length=9000) + chunk({"content": "Hel"}),
        FIRST + framed(b'data: {"error": {"message"2\x9b, "code": "x"}}\n\n') + b"0\r\n\r\n",
    ],
    ids=[
        *("mid-event", "mid-utf8", "bad-size", "overlong-chunk", "endless-line", "short-length"),
        "unreadable-error",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_broken_stream_ends_in_one_error_event_and_harms_no_other(house, data, path):
    house.node.answer = raw_answer(data)
    body = {"model": MODEL, "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    response = await house.client.post(path, json=body)
    assert response.text.count('"error":{') == 1
    assert "data: [DONE]" not in response.text
    assert "message_stop" not in response.text
    assert (await house.record()).outcome == "error"
    house.node.answer = answer_hello
    assert (await house.chat()).status_code == 200


async def test_an_error_is_an_event_of_its_own_after_half_a_one(house):
    house.node.answer = raw_answer(FIRST + framed(b'data: {"id": "c1", "choi'))
    response = await house.chat(stream=True, stream_options={"include_usage": True})
    assert response.text.rstrip().split("\n\n")[-1].startswith('data: {"error":{')


@pytest.mark.parametrize("stream", [False, True])
async def test_a_page_in_place_of_an_answer_is_the_nodes_fault(house, stream):
    house.node.answer = raw_answer(head(content_type="text/html", content_length=19) + b"<html>Hello.</html>")
    response = await house.chat(stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "node_unavailable")
    assert "Hello" not in response.text


ASKED = {
    "/v1/chat/completions": {"messages": []},
    "/v1/completions": {"prompt": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
    "/v1/responses": {"input": "x"},
}


@pytest.mark.parametrize(
    "data",
    [
        head(content_length=20) + _ANSWER,
        head(content_length=0),
        head(content_length=9) + b'{"id": 1]',
        head(content_length=11) + b'{"id":"\xff"}\r\n',
        head(content_length=6) + b'"text"',
        head(content_length=100_000) + b"[" * 100_000,
        head(transfer_encoding="chunked") + framed(_ANSWER[:-9]) + b"0\r\n\r\n",
    ],
    ids=[
        "shorter-than-it-is",
        "nothing",
        "no-json",
        "no-utf8",
        "no-object",
        "too-deep",
        "cut-and-well-framed",
    ],
)
@pytest.mark.parametrize("path", ASKED)
async def test_an_answer_that_is_no_json_is_one_error_and_counted(house, data, path):
    counter = metrics.UPSTREAM_FAILURES.labels("n0", "protocol")
    before = counter._value.get()
    house.node.answer = raw_answer(data)
    response = await house.client.post(path, json={"model": MODEL} | ASKED[path])
    assert response.status_code == 503
    assert "n0" in response.json()["error"]["message"]
    assert int(response.headers["retry-after"]) > 0
    record = await house.record()
    assert (record.outcome, record.error_code) == ("error", "node_lost")
    assert counter._value.get() == before + 1
    house.node.answer = answer_hello
    assert (await house.chat()).status_code == 200


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_a_refusal_in_chunks_is_read_whole(house, piece):
    async def refuse_in_chunks(request, writer):
        body = b'{"error": {"message": "no such voice", "type": "t", "code": "bad", "param": "voice"}}'
        writer.write(head(400, transfer_encoding="chunked"))
        for at in range(0, len(body), piece):
            writer.write(framed(body[at : at + piece]))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    house.node.answer = refuse_in_chunks
    response = await house.chat()
    assert (response.status_code, response.json()["error"]["param"]) == (400, "voice")


@pytest.mark.parametrize("end", [b"", b"zz\r\nnot a size\r\n"], ids=["cut", "bad-size"])
async def test_a_refusal_that_breaks_off_is_the_nodes_fault(house, end):
    house.node.answer = raw_answer(head(500, transfer_encoding="chunked") + framed(b'{"error": {"mess') + end)
    response = await house.chat()
    assert response.status_code == 503
    assert response.json()["error"]["code"] in {"node_lost", "node_unavailable"}


async def test_a_reader_that_stops_holds_a_bounded_buffer(house):
    sent = 0

    async def flood(request, writer):
        nonlocal sent
        writer.write(STREAM_HEAD)
        piece = framed(chunk({"content": "x" * 10_000}))
        while not request.gone.is_set():
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    house.node.answer = flood
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=1 << 14)
    writer.write(RAW)
    before = -1
    async with asyncio.timeout(20):
        while not sent or sent != before:
            before = sent
            await asyncio.sleep(0.5)
        assert sent < 16 << 20  # of which the kernels' send buffers, two times 4 MiB, are the most
        while sent == before:  # it goes on as soon as the reader does
            await reader.read(1 << 20)
        writer.transport.abort()
        while house.gateway.nodes.in_flight("n0"):
            await asyncio.sleep(0.01)


async def test_a_client_connection_serves_on_after_a_stream(house):
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    async with asyncio.timeout(10):
        for _ in range(3):
            writer.write(RAW + RAW)  # pipelined
            for _ in range(2):
                answer = await reader.readuntil(b"0\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert b"[DONE]" in answer
    writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01garbage\r\n\r\n",
        b"GET " + b"/x" * 50_000,
        b"POST http://[ HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
)
async def test_malformed_requests_get_a_refusal_and_the_end(house, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(data)
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    writer.close()
    assert (await house.chat()).status_code == 200


async def test_a_client_still_sending_reads_why_its_body_is_refused():
    async with make_house(max_body_bytes=1000) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(
            b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000\r\n\r\n"
            + b"x" * 100_000
        )
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert b" 413 " in answer
        assert b'"type":"error"' in answer  # Anthropic's envelope
        writer.close()


async def test_a_stop_ends_running_streams_with_an_error_event():
    async def hang(request, writer):
        writer.write(FIRST)
        await request.gone.wait()

    async with make_house() as house:
        house.node.answer = hang
        client = httpx.AsyncClient(timeout=20)
        url = f"http://127.0.0.1:{house.port}/v1/chat/completions"
        task = asyncio.create_task(client.post(url, content=REQUEST))
        async with asyncio.timeout(10):
            while not house.gateway.open_streams:
                await asyncio.sleep(0.01)
    response = await task
    assert "gateway_stopping" in response.text
    await client.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_node_that_trickles_is_slow_and_not_silent(stream):
    async def trickle(request, writer):
        whole = WHOLE_STREAM if stream else WHOLE_ANSWER
        for at in range(0, len(whole), 8):
            writer.write(whole[at : at + 8])
            await writer.drain()
            await asyncio.sleep(0.02)

    async with make_house(idle_timeout_s=0.3) as house:
        house.node.answer = trickle
        start = asyncio.get_running_loop().time()
        response = await house.chat(stream=stream)
        assert response.status_code == 200
        assert "Hel" in response.text
        assert "error" not in response.text
        assert asyncio.get_running_loop().time() - start > 0.3


async def test_a_head_that_trickles_is_given_up_in_time():
    async def trickle(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nx-padding: ")
        while not request.gone.is_set():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with make_house(first_byte_timeout_s=0.3) as house:
        house.node.answer = trickle
        async with asyncio.timeout(5):
            response = await house.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "node_unavailable")
        async with asyncio.timeout(5):
            await house.node.requests[0].gone.wait()


@pytest.mark.parametrize(
    ("data", "kind", "code"),
    [
        (b"", "closed", "node_lost"),
        (b"HTTP/1.1 200 OK\r\ncontent-ty", "closed", "node_lost"),
        (b"NOT HTTP\r\n\r\n", "protocol", "node_unavailable"),
        (head(content_length=1000) + b'{"id":', "closed", "node_lost"),
        (FIRST, "closed", ""),
        (FIRST + b"zz\r\nnot a size\r\n", "protocol", ""),
    ],
    ids=[
        "before-the-head",
        "within-the-head",
        "no-http",
        "within-the-body",
        "within-the-stream",
        "chunk-size",
    ],
)
async def test_every_fault_is_counted_by_its_kind(house, data, kind, code):
    counter = metrics.UPSTREAM_FAILURES.labels("n0", kind)
    before = counter._value.get()
    house.node.answer = raw_answer(data)
    response = await house.chat(stream=data.startswith(FIRST))
    assert counter._value.get() == before + 1
    if code:
        assert (response.status_code, response.json()["error"]["code"]) == (503, code)
    else:
        assert response.text.count('"error":{') == 1


async def test_a_node_that_cannot_be_reached_and_one_that_is_silent_are_counted():
    async with make_house(first_byte_timeout_s=0.1) as house:
        house.node.answer = hang
        timeouts, connects = (metrics.UPSTREAM_FAILURES.labels("n0", kind) for kind in ("timeout", "connect"))
        before = timeouts._value.get(), connects._value.get()
        assert (await house.chat()).status_code == 503
        house.node.refuse_connections()
        assert (await house.chat()).status_code == 503
        assert (timeouts._value.get(), connects._value.get()) == (before[0] + 1, before[1] + 1)


async def hang(request, writer):
    await request.gone.wait()

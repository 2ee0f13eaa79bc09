"""What HTTP itself offers clients of a neuron: content codings, `HEAD`."""

from __future__ import annotations

import asyncio
import gzip
import json

import httpx
import pytest
import pytest_asyncio

from tests.neuron.conftest import config, neuron_with
from tests.stubs.tls import TLS

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "echo hi"}]}).encode()


async def test_a_compressed_request_is_answered(neuron):
    body = gzip.compress(b"\xef\xbb\xbf" + CHAT)
    headers = {"content-encoding": "gzip"}
    answer = await neuron.http.post("/v1/chat/completions", content=body, headers=headers)
    assert (answer.status_code, answer.json()["model"]) == (200, "m")


async def test_an_unknown_coding_is_refused(neuron):
    headers = {"content-encoding": "lzma"}
    answer = await neuron.http.post("/v1/chat/completions", content=CHAT, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize("path", ["/health", "/events", "/models"])
async def test_head_is_get_without_the_body(neuron, path):
    answer = await neuron.http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_chats_and_streams_over_http2(neuron):
    async with httpx.AsyncClient(base_url=neuron.url, http1=False, http2=True, verify=TLS) as http:
        asked = [json.loads(CHAT) | {"stream": stream} for stream in (False, True) * 4]
        answers = await asyncio.gather(*[http.post("/v1/chat/completions", json=body) for body in asked])
    assert {(answer.http_version, answer.status_code) for answer in answers} == {("HTTP/2", 200)}
    assert answers[0].json()["choices"][0]["message"]["content"] == "hi"
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers[1::2])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neuron_without_http2(model_dir):
    async with neuron_with(config(http2=False)) as running:
        assert (await running.load(model_dir)).status_code == 200
        yield running


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
OFFER = HEAD + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAA\r\n"
LENGTH = OFFER + b"content-length: %d\r\n\r\n" % len(CHAT)
CHUNKED = OFFER + b"transfer-encoding: chunked\r\n\r\n"
SECOND = HEAD.replace(b"POST", b"GET") + b"content-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        ([LENGTH + CHAT], [200]),
        ([LENGTH, CHAT], [200]),
        ([LENGTH[:70], LENGTH[70:] + CHAT[:9], CHAT[9:] + SECOND], [200, 405]),
        ([CHUNKED, b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHAT), CHAT), SECOND], [200, 405]),
        ([LENGTH.replace(b"h2c", b"websocket"), CHAT + SECOND], [200, 405]),
        ([OFFER + b"content-length: %d\r\n\r\n" % len(SECOND), SECOND], [400]),
    ],
    ids=["one-piece", "two-pieces", "cut", "chunks", "websocket", "request-as-body"],
)
async def test_an_upgrade_is_ignored_where_http2_is_off(neuron_without_http2, pieces, statuses):
    port = int(neuron_without_http2.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)  # a segment of its own
        writer.write(b"GET /none HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(20):
            answers = await reader.read()
    finally:
        writer.close()
    lines = [line.split()[1] for line in answers.replace(b"HTTP/1.1 ", b"\nHTTP/1.1 ").splitlines()
             if line.startswith(b"HTTP/1.1 ")]  # fmt: skip
    assert [int(status) for status in lines] == [*statuses, 404]


@pytest.mark.parametrize(
    ("head", "status"), [(b"host: a b", b"400"), (b"x: y", b"400"), (b"host: elsewhere.example", b"401")]
)
async def test_a_request_is_refused_for_what_is_wrong_with_it(neuron, head, status):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(neuron.url.rpartition(":")[2]))
    writer.write(b"GET /health HTTP/1.1\r\n" + head + b"\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    assert answer.split()[1] == status

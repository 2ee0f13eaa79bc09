"""Chat over HTTP/2, as clients speak it: over TLS, by prior knowledge, by an upgrade."""

from __future__ import annotations

import asyncio
import json
import shutil

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

from cortex_site.base.addresses import http_url
from tests.gateway.conftest import MODEL, make_house
from tests.stubs.certificates import SelfMade
from tests.stubs.fake_node import STREAM_HEAD, chunk, framed, say_often

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")


def speaking(house, verify=False, *, http1=False):
    url = http_url("127.0.0.1", house.port, tls=house.gateway.config.gateway.speaks_tls)
    return httpx.AsyncClient(base_url=url, http1=http1, http2=True, verify=verify, timeout=20)


async def test_chats_and_streams_side_by_side(house):
    async with speaking(house) as client:
        asked = [CHAT | {"stream": bool(number % 2)} for number in range(40)]
        answers = await asyncio.gather(*[client.post("/v1/chat/completions", json=body) for body in asked])
    assert {(answer.http_version, answer.status_code) for answer in answers} == {("HTTP/2", 200)}
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers[1::2])
    assert all(answer.json()["choices"][0]["message"]["content"] == "Hello there." for answer in answers[::2])
    await house.record(40)
    assert {record.outcome for record in house.records} == {"ok"}


async def test_every_dialect_and_every_error_has_its_own_shape(house):
    async with speaking(house) as client:
        body = CHAT | {"max_tokens": 9, "moonphase": "full"}
        answer = await client.post("/v1/messages", json=body)
        assert (answer.json()["type"], answer.headers["x-cortex-ignored"]) == ("message", "moonphase")
        answer = await client.post("/v1/messages", content=b"{")
        assert (answer.status_code, answer.json()["type"]) == (400, "error")
        answer = await client.post("/messages", json=body)
        assert (answer.status_code, "/v1/messages" in answer.text) == (404, True)
        answer = await client.head("/v1/models")
        assert (answer.status_code, answer.content) == (200, b"")


async def test_a_client_of_tls_chooses_by_alpn(tmp_path):
    pair = SelfMade()
    pair.write(tmp_path)
    files = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    for settings, version in (({}, "HTTP/2"), ({"http2": False}, "HTTP/1.1")):
        async with (
            make_house(verify=pair.trusted(), **files, **settings) as house,
            speaking(house, pair.trusted(), http1=True) as client,
        ):
            answer = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
            assert (answer.http_version, answer.status_code) == (version, 200)
            assert answer.text.endswith("data: [DONE]\n\n")
            assert (await house.chat()).http_version == "HTTP/1.1"


async def test_a_client_that_leaves_ends_its_streams_at_the_node(house):
    async def answer(request, writer):
        writer.write(STREAM_HEAD + framed(chunk({"content": "Hello"})))
        await request.gone.wait()

    house.node.answer = answer
    async with speaking(house) as client:
        body = CHAT | {"stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert b"Hello" in await anext(response.aiter_bytes())
    async with asyncio.timeout(10):
        await house.node.requests[0].gone.wait()
    assert (await house.record()).outcome == "cancelled"


async def test_a_stream_that_its_client_reads_slowly_is_whole(house):
    house.node.answer = say_often("x" * 10_000, 300)
    async with speaking(house) as client:
        body = CHAT | {"stream": True}
        size = 0
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for piece in response.aiter_bytes():
                size += piece.count(b"x" * 1000)
                await asyncio.sleep(0.001)
    assert size >= 300 * 9


async def test_a_large_whole_answer_is_compressed():
    async with make_house(compress_from_bytes=100) as house, speaking(house) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT, headers={"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json()["choices"][0]["message"]["content"] == "Hello there."
        plain = await client.post("/v1/chat/completions", json=CHAT, headers={"accept-encoding": "identity"})
        assert plain.json() == answer.json()
        assert int(plain.headers["content-length"]) == len(plain.content)


async def test_requests_that_are_taken_back_at_once_never_reach_the_node(house):
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    h2 = H2Connection(H2Configuration(client_side=True))
    h2.initiate_connection()
    body = json.dumps(CHAT).encode()
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":authority": "127.0.0.1",
        ":path": "/v1/chat/completions",
    }
    for _ in range(5):
        stream = h2.get_next_available_stream_id()
        h2.send_headers(stream, list(fields.items()))
        h2.send_data(stream, body, end_stream=True)
        h2.reset_stream(stream)
    stream = h2.get_next_available_stream_id()
    h2.send_headers(stream, list(fields.items()))
    h2.send_data(stream, body, end_stream=True)
    writer.write(h2.data_to_send())
    ended = False
    async with asyncio.timeout(20):
        while not ended:
            received = h2.receive_data(await reader.read(1 << 16))
            ended = any(isinstance(event, StreamEnded) and event.stream_id == stream for event in received)
    writer.close()
    assert len(house.node.requests) == 1


async def test_a_large_body_reaches_the_node(house):
    text = "y" * 3_000_000
    async with speaking(house) as client:
        body = CHAT | {"messages": [{"role": "user", "content": text}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    assert house.node.requests[0].json["messages"][0]["content"] == text


@curl
@pytest.mark.parametrize("option", ["--http2", "--http2-prior-knowledge"])
async def test_curl_streams_a_chat(house, option):
    body = json.dumps(CHAT | {"stream": True, "user": "z" * 100_000})
    url = f"http://127.0.0.1:{house.port}/v1/chat/completions"
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sSN", option, url, "-H", "content-type: application/json", "--data-binary", "@-"),
        *("-w", "%{http_version} %{http_code}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(body.encode()), 20)
    assert out.endswith(b"data: [DONE]\n\n2 200")
    assert house.node.requests[0].json["user"] == "z" * 100_000

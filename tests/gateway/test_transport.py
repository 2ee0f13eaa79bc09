"""What HTTP itself offers clients of the gateway: codings, origins, paths that help, probes."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from backports import zstd

from cortex_site.base.version import VERSION
from tests.gateway.conftest import MODEL, make_house

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_compressed_chat_reaches_the_node_as_it_was(house, stream):
    body = json.dumps(CHAT | {"stream": stream}).encode()
    answer = await house.client.post(
        "/v1/chat/completions",
        content=gzip.compress(b"\xef\xbb\xbf" + body),
        headers={"content-encoding": "gzip"},
    )
    assert answer.status_code == 200
    (seen,) = house.node.requests
    assert {name: seen.json[name] for name in CHAT} == CHAT


async def test_a_refused_coding_has_the_dialects_envelope(house):
    for path, code in (("/v1/chat/completions", "unsupported_encoding"), ("/v1/messages", None)):
        answer = await house.client.post(path, content=b"x", headers={"content-encoding": "lzma"})
        error = answer.json()["error"]
        assert (answer.status_code, error.get("code")) == (415, code)
        assert "content-encoding: lzma" in error["message"]


async def test_a_large_answer_is_compressed_and_a_stream_is_not():
    async with make_house(compress_from_bytes=100) as house:
        headers = {"accept-encoding": "zstd"}
        answer = await house.client.get("/v1/models", headers=headers)
        assert answer.headers["content-encoding"] == "zstd"
        assert json.loads(zstd.decompress(answer.read()))["data"][0]["id"] == MODEL
        answer = await house.client.post(
            "/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers
        )
        assert "content-encoding" not in answer.headers
        assert b"data: [DONE]" in answer.content
    async with make_house(compress_from_bytes=0) as house:
        answer = await house.client.get("/v1/models", headers=headers)
        assert "content-encoding" not in answer.headers


# --- pages of other origins ---

PAGE = "http://localhost:5173"
ASKED = "authorization,content-type,x-stainless-lang"


def preflight(house, path: str = "/v1/chat/completions", origin: str = PAGE):
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": ASKED,
    }
    return house.client.request("OPTIONS", path, headers=headers)


def sharing(answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


async def test_no_page_may_read_anything_by_default(house):
    answer = await preflight(house)
    assert (answer.status_code, sharing(answer)) == (405, {})
    answer = await house.client.get("/v1/models", headers={"origin": PAGE})
    assert (answer.status_code, sharing(answer), answer.headers.get("vary")) == (401, {}, None)


async def test_a_page_of_an_allowed_origin_streams():
    async with make_house(allowed_origins=["http://localhost:*"]) as house:
        answer = await preflight(house)
        assert (answer.status_code, answer.content) == (200, b"")
        assert sharing(answer) == {
            "access-control-allow-origin": PAGE,
            "access-control-expose-headers": "*",
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": ASKED,
            "access-control-max-age": "600",
        }
        shared = {"access-control-allow-origin": PAGE, "access-control-expose-headers": "*"}
        for stream in (True, False):
            answer = await house.client.post(
                "/v1/chat/completions", json=CHAT | {"stream": stream}, headers={"origin": PAGE}
            )
            assert (answer.status_code, sharing(answer), answer.headers["vary"]) == (200, shared, "origin")
            assert "x-request-id" in answer.headers
            assert not stream or b"data: [DONE]" in answer.content


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/none"])
async def test_a_page_of_an_allowed_origin_reads_errors(path):
    async with make_house(allowed_origins=[PAGE]) as house:
        assert (await preflight(house, path)).status_code == 200
        for body, coding in ((b"{", ""), (b"x", "lzma")):
            headers = {"origin": PAGE, "content-encoding": coding}
            answer = await house.client.post(path, content=body, headers=headers)
            assert answer.status_code in {400, 404, 415}
            assert answer.headers["access-control-allow-origin"] == PAGE


async def test_pages_of_other_origins_get_answers_that_they_cannot_read():
    async with make_house(allowed_origins=[PAGE], compress_from_bytes=1) as house:
        for origin in ("http://localhost:5174", "null"):
            assert sharing(await preflight(house, origin=origin)) == {}
            answer = await house.client.get(
                "/v1/models", headers={"origin": origin, "accept-encoding": "identity"}
            )
            assert (sharing(answer), answer.headers["vary"]) == ({}, "origin")
        answer = await house.client.get("/v1/models", headers={"origin": PAGE, "accept-encoding": "br"})
        assert answer.headers["vary"] == "origin, accept-encoding"
        assert (await house.client.get("/v1/models")).headers["vary"] == "origin, accept-encoding"


async def test_options_that_are_no_preflight_are_another_method():
    async with make_house(allowed_origins=[PAGE]) as house:
        answer = await house.client.request("OPTIONS", "/v1/models", headers={"origin": PAGE})
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


# --- wrong base addresses, and probes ---


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/messages", "/v1/messages"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("/v1/messages/v1/messages", "/v1/messages"),
        ("/api/v1/responses", "/v1/responses"),
        ("/openai/responses/resp_1/input_items", "/v1/responses/resp_1/input_items"),
        ("/v1/tokenize", "/tokenize"),
        ("/v1/messages/", "/v1/messages"),
        ("//v1//messages", "/v1/messages"),
        ("/models/org/name", "/v1/models/org/name"),
        ("/embeddings", "/v1/embeddings"),
        ("/v1/api/chat", "/api/chat"),
    ],
)
async def test_a_wrong_base_address_is_told_which_path_was_meant(house, path, meant):
    answer = await house.client.post(house.client.base_url.copy_with(raw_path=path.encode()), json=CHAT)
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    assert message == f"There is no {path} here, but there is {meant}: check the client's base address."


@pytest.mark.parametrize("path", ["/v1", "/v1/none", "/favicon.ico"])
async def test_nothing_is_guessed_of_other_paths(house, path):
    answer = await house.client.get(path)
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, f"There is no {path} here.")


async def test_a_long_path_is_not_repeated(house):
    answer = await house.client.get("/x" * 20_000)
    message = answer.json()["error"]["message"]
    assert (answer.status_code, message[:20], message[-6:]) == (404, "There is no /x/x/x/x", " here.")
    assert len(message) < 3_000


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_worker_is_ready_while_it_hears_a_node(house, method):
    async def statuses() -> list[int]:
        answers = [await house.client.request(method, path) for path in ("/healthz", "/ready", "/version")]
        return [answer.status_code for answer in answers]

    assert await statuses() == [200, 200, 200]
    await house.node.stop()
    await house.until(lambda snapshot: not any(node.healthy for node in snapshot.nodes.values()))
    assert await statuses() == [200, 503, 200]


async def test_probes_say_what_they_know():
    async with make_house(nodes=0) as house:
        assert (await house.client.get("/healthz")).json() == {"status": "ok"}
        assert (await house.client.get("/version")).json() == {"version": VERSION}
        answer = await house.client.get("/ready")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert answer.json()["error"]["message"] == "No node answers this worker: 0 of 0 do."
        assert "retry-after" in answer.headers


@pytest.fixture
async def house_without_http2():
    async with make_house(http2=False) as built:
        yield built


@pytest.mark.parametrize("together", [True, False])
async def test_an_upgrade_is_ignored_and_its_body_read(house_without_http2, together):
    house = house_without_http2
    body = json.dumps(CHAT).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\n"
        b"upgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAA\r\ncontent-length: %d\r\n\r\n"
    ) % len(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(head + body if together else head)
    if not together:
        await asyncio.sleep(0.05)  # a segment of its own
        writer.write(body)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(10):
        answers = await reader.read()
    writer.close()
    assert answers.count(b"HTTP/1.1 200 ") == answers.count(b"HTTP/1.1 ") == 2
    (seen,) = house.node.requests
    assert seen.json == CHAT

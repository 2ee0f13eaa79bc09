"""What HTTP itself offers clients of the gateway: codings, origins, paths that help, probes."""

from __future__ import annotations

import gzip
import json

import pytest
from backports import zstd

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

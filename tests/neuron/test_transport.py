"""What HTTP itself offers clients of a neuron: content codings, `HEAD`."""

from __future__ import annotations

import gzip
import json

import pytest

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

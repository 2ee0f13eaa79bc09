"""Requests that are compressed, answers that are asked for compressed, and what is none of these."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
import zlib

import brotli
import httpx
import pytest
from backports import zstd
from django.http import HttpResponse
from hypothesis import given
from hypothesis import strategies as st
from ninja import NinjaAPI
from ninja.errors import HttpError

from cortex_site.http.application import Application
from cortex_site.http.bounds import RequestBounds
from cortex_site.http.request import Request
from cortex_site.http.response import StreamResponse
from tests.gateway.conftest import serving

LIMIT = 100_000
COMPRESS_FROM = 1000
BOM = b"\xef\xbb\xbf"


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


CODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
DECODERS = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": zstd.decompress,
}
every_coding = pytest.mark.parametrize("coding", CODERS)
_numbers = itertools.count()


def make_app() -> Application:
    api = NinjaAPI(urls_namespace=f"content-coding-{next(_numbers)}", docs_url=None, openapi_url=None)

    @api.exception_handler(HttpError)
    def on_http_error(request, error):
        return HttpResponse(str(error), status=error.status_code)

    @api.post("/echo")
    async def echo(request: Request) -> HttpResponse:
        return HttpResponse(request.body)

    @api.get("/large")
    async def large(request: Request, size: int = COMPRESS_FROM) -> HttpResponse:
        return HttpResponse(b"x" * size, content_type="application/json")

    @api.get("/stream")
    async def stream(request: Request) -> StreamResponse:
        async def produce(sink) -> None:
            await sink(b"x" * COMPRESS_FROM)

        return StreamResponse(produce, headers={"content-type": "text/event-stream"})

    return Application(api, bounds=RequestBounds(LIMIT), compress_from_bytes=COMPRESS_FROM)


@pytest.fixture(params=["own protocol", "ASGI"])
async def client(request):
    app = make_app()
    if request.param == "ASGI":
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            yield client
        return
    async with serving(app) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


async def send(client, body: bytes, coding: str) -> httpx.Response:
    headers = {"content-encoding": coding, "accept-encoding": "identity"}
    return await client.post("/echo", content=body, headers=headers)


@every_coding
async def test_a_compressed_body_is_read(client, coding):
    for body in (b"", b'{"model": "m"}' * 500, b"x" * LIMIT):
        answer = await send(client, CODERS[coding](body), coding)
        assert (answer.status_code, answer.content) == (200, body)


@every_coding
async def test_what_decodes_to_more_than_the_limit_is_refused(client, coding):
    for size in (LIMIT + 1, 50 * LIMIT):
        answer = await send(client, CODERS[coding](b"x" * size), coding)
        assert (answer.status_code, answer.text) == (413, f"The request body is larger than {LIMIT} bytes.")


@every_coding
async def test_a_bomb_takes_no_memory(client, coding):
    bomb = CODERS[coding](bytes(1 << 24))
    await send(client, bomb[:LIMIT], coding)  # imports
    tracemalloc.start()
    try:
        assert (await send(client, bomb[:LIMIT], coding)).status_code == 413
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@every_coding
async def test_a_broken_body_is_refused(client, coding):
    whole = CODERS[coding](b"some words " * 20)
    for broken in (whole[:-5], whole + b"more", b"\xff" + whole):
        answer = await send(client, broken, coding)
        assert answer.status_code == 400
        assert f"`content-encoding: {coding.lower()}`" in answer.text


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_body_may_have_members_but_not_any_number(client, coding):
    member = CODERS[coding](b"ab")
    assert (await send(client, 3 * member, coding)).content == b"ababab"
    assert "members" in (await send(client, 100 * member, coding)).text


async def test_zstd_may_not_ask_for_a_larger_window_than_http_allows(client):
    for log, status in ((23, 200), (24, 400)):
        coder = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
        body = coder.compress(b"some") + coder.flush()
        assert (await send(client, body, "zstd")).status_code == status


@pytest.mark.parametrize("coding", ["lzma", "gzip, gzip"])
async def test_an_unknown_coding_is_refused_with_those_that_are_known(client, coding):
    answer = await send(client, b"x", coding)
    assert answer.status_code == 415
    assert f"`content-encoding: {coding}`" in answer.text
    assert answer.headers["accept-encoding"] == "gzip, deflate, br, zstd"


async def test_identity_is_no_coding(client):
    assert (await send(client, b"x", "identity")).content == b"x"


@pytest.mark.parametrize("coding", [None, "gzip"])
async def test_a_byte_order_mark_is_dropped(client, coding):
    body, headers = BOM + b"{}", {}
    if coding:
        body, headers = gzip.compress(body), {"content-encoding": coding}
    assert (await client.post("/echo", content=body, headers=headers)).content == b"{}"


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("br;q=0.9, gzip;q=1.0", "gzip"),
        ("deflate, gzip;q=0", "deflate"),
        ("*", "zstd"),
        ("br, *;q=0", "br"),
        ("identity, gzip;q=0.5", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip;q=much", None),
        ("", None),
    ],
)
async def test_an_answer_is_compressed_as_asked(client, accepted, coding):
    request = client.build_request("GET", "/large", headers={"accept-encoding": accepted})
    answer = await client.send(request, stream=True)
    assert answer.headers.get("content-encoding") == coding
    assert answer.headers.get("vary") == ("accept-encoding" if coding else None)
    content = b"".join([piece async for piece in answer.aiter_raw()])
    assert (DECODERS[coding](content) if coding else content) == b"x" * COMPRESS_FROM


async def test_small_answers_and_streams_are_not_compressed(client):
    headers = {"accept-encoding": "gzip"}
    for path in ("/stream", f"/large?size={COMPRESS_FROM - 1}"):
        answer = await client.get(path, headers=headers)
        assert "content-encoding" not in answer.headers
        assert answer.content.startswith(b"xx")


@given(st.text(max_size=50) | st.lists(st.sampled_from(["gzip", "br", "*", ";q=", "0.5", ","])).map("".join))
def test_any_wish_is_read(wish):
    from cortex_site.http.content_coding import _choose

    assert _choose(wish) in {None, *DECODERS}


async def test_head_is_get_without_the_body(client):
    got, head = await client.get("/large"), await client.head("/large")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert (await client.head("/stream")).content == b""
    assert (await client.head("/none")).status_code == 404
    refused = await client.head("/echo")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert (await client.put("/large")).headers["allow"] == "GET, HEAD"
    assert (await client.get("/large")).content == got.content  # on the same connection

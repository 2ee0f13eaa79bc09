from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager

import httpx
import pytest
from django.http import HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError

from cortex_site.http.application import Application
from cortex_site.http.bounds import RequestBounds
from cortex_site.http.response import StreamResponse

_names = itertools.count()


def make_app(**options):
    api = NinjaAPI(urls_namespace=f"application-{next(_names)}", docs_url=None)

    @api.exception_handler(HttpError)
    def on_http_error(request, error):
        return HttpResponse(f"{error.status_code} {error}", status=error.status_code)

    @api.exception_handler(Exception)
    def on_bug(request, error):
        return HttpResponse("bug", status=500)

    @api.get("/plain")
    async def plain(request, word: str = "none"):
        return {"word": word, "peer": request.peer, "agent": request.headers["user-agent"]}

    @api.post("/plain")
    async def size(request):
        return {"bytes": len(request.body)}

    @api.get("/models/{path:model}/endpoint")
    async def endpoint(request, model: str):
        return {"model": model}

    @api.get("/models/{name}")
    async def one(request, name: str):
        return {"name": name}

    @api.get("/stream")
    async def stream(request):
        async def produce(write):
            for number in range(3):
                await write(b"%d" % number)

        return StreamResponse(produce, headers={"content-type": "text/plain"})

    @api.get("/bug")
    async def bug(request):
        raise KeyError("oops")

    return Application(api, bounds=RequestBounds(1000), **options)


@pytest.fixture
async def client():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://test") as client:
        yield client


async def test_query_headers_and_peer(client):
    answer = (await client.get("/plain", params={"word": "hello"}, headers={"user-agent": "x"})).json()
    assert answer == {"word": "hello", "peer": "127.0.0.1", "agent": "x"}


async def test_methods_of_one_path(client):
    assert (await client.post("/plain", content=b"x" * 10)).json() == {"bytes": 10}
    response = await client.delete("/plain")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, POST"


async def test_paths_with_slashes_in_names(client):
    assert (await client.get("/models/org/name/endpoint")).json() == {"model": "org/name"}
    assert (await client.get("/models/name")).json() == {"name": "name"}
    assert (await client.get("/models/a/b")).status_code == 404


async def test_stream(client):
    response = await client.get("/stream")
    assert response.text == "012"


async def test_bug_goes_through_the_apis_handler(client):
    assert (await client.get("/bug")).text == "bug"


async def test_declared_and_actual_size_are_both_bounded(client):
    assert (await client.post("/plain", content=b"x" * 1001)).status_code == 413

    async def pieces():
        for _ in range(20):
            yield b"x" * 100

    assert (await client.post("/plain", content=pieces())).status_code == 413


async def test_a_synchronous_operation_is_refused():
    api = NinjaAPI(urls_namespace="application-sync", docs_url=None)

    @api.get("/sync")
    def sync(request):
        return {}

    with pytest.raises(TypeError, match="must be async"):
        Application(api, bounds=RequestBounds(1))


async def test_lifespan_tells_of_a_failure():
    @asynccontextmanager
    async def broken():
        raise RuntimeError("no socket")
        yield

    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    await make_app(lifespan=broken)({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no socket"}]


async def test_client_leaving_cancels_a_stream_and_closes_it():
    events = []
    api = NinjaAPI(urls_namespace="application-cancel", docs_url=None)

    @api.get("/forever")
    async def forever(request):
        async def produce(write):
            try:
                await write(b"first")
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                events.append("cancelled")
                raise

        return StreamResponse(produce, headers={}, on_close=lambda: events.append("closed"))

    gone = asyncio.Event()
    messages = iter([{"type": "http.request", "body": b""}])

    async def receive():
        for message in messages:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message.get("body"):
            gone.set()

    scope = {"type": "http", "method": "GET", "path": "/forever", "headers": [], "query_string": b""}
    async with asyncio.timeout(5):
        await Application(api, bounds=RequestBounds(1))(scope, receive, send)
    assert events == ["cancelled", "closed"]

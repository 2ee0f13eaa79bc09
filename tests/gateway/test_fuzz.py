"""Any bytes from a node, in any pieces: one end for one client, and the next request is served."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ext.sse import SSEScanner
from ext.stream import Outlet, Tap
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.http.connection import Connection
from fleet.gateway.http.errors import UpstreamError
from tests.gateway.conftest import MODEL, make_house
from tests.stubs.damage import in_pieces
from tests.stubs.fake_node import STREAM_HEAD, USAGE, answer_hello, chunk, framed, head, sse

EVENTS = [chunk({"content": "Hel"}), chunk({"content": "lo ü"}), chunk({}, "stop")]
END = [sse({"id": "c1", "choices": [], "usage": USAGE}), sse(b"[DONE]")]
FAILURE = sse({"error": {"message": "worker died", "type": "api_error", "code": "worker_lost"}})
STREAM = b"".join(EVENTS + END)
WHOLE = json.dumps({"id": "c1", "model": MODEL, "choices": [], "usage": USAGE}).encode()
ANSWERS = [
    STREAM_HEAD + framed(STREAM) + b"0\r\n\r\n",
    STREAM_HEAD + b"".join(map(framed, EVENTS + END)) + b"0\r\n\r\n",
    STREAM_HEAD + b"".join(map(framed, [*EVENTS[:2], FAILURE])) + b"0\r\n\r\n",
    head(content_type="text/event-stream", content_length=len(STREAM)) + STREAM,
    head(content_length=len(WHOLE)) + WHOLE,
]


@st.composite
def answers(draw) -> bytes:
    """A good answer with a few bytes changed, cut out or put in; or noise."""
    data = bytearray(draw(st.sampled_from(ANSWERS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 60))] = draw(
            st.binary(max_size=20) | st.just(b"\r\n") | st.just(b"\n\n")
        )
    return bytes(data) if draw(st.integers(0, 9)) else draw(st.binary(max_size=200))


def pieces() -> st.SearchStrategy[list[bytes]]:
    return in_pieces(answers())


class FakeTransport(asyncio.Transport):
    closed = False

    def __init__(self, protocol) -> None:
        super().__init__()
        self.protocol = protocol
        protocol.connection_made(self)

    def write(self, data) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def set_protocol(self, protocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def receive(parts: list[bytes]) -> bytes | str:
    """The body that a connection makes of the pieces; the kind of failure when there is none."""
    connection = Connection(PoolBounds(first_byte_s=5, idle_s=5))
    transport = FakeTransport(connection)
    body = bytearray()

    class Taker(Tap):
        """Has the body poured once its head is there."""

        is_pouring = False

        def take(self, data: bytes, now: float) -> bool:
            body.extend(data)
            return True

        def on_news(self) -> None:
            if connection.answer.status and not self.is_pouring:
                self.is_pouring = True
                connection.pour_into(self, self)
            elif self.is_pouring:
                connection.is_poured()

    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
    connection.listen(Taker(SSEScanner(), None, Outlet(body.extend, None, chunked=False)))
    for part in parts:
        if not transport.closed:
            transport.protocol.data_received(part)
    transport.protocol.connection_lost(None)
    error = connection.error
    return error.kind if isinstance(error, UpstreamError) else bytes(body)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as made:
        yield made


@settings(max_examples=300)
@given(pieces())
def test_a_connection_makes_the_same_of_an_answer_however_it_is_cut(runner, parts):
    cut, whole = runner.run(receive(parts)), runner.run(receive([b"".join(parts)]))
    assert cut == whole


@pytest.fixture(scope="module")
def asking(runner):
    """Ask a gateway whose node answers with these pieces."""
    context = make_house(first_byte_timeout_s=2, idle_timeout_s=2)
    house = runner.run(context.__aenter__())
    yield lambda *arguments: runner.run(ask(house, *arguments))
    runner.run(context.__aexit__(None, None, None))


async def ask(house, parts: list[bytes], path: str, stream: bool) -> httpx.Response:
    async def answer(request, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    house.node.answer = answer
    body = {"model": MODEL, "stream": stream, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    response = await house.client.post(path, json=body)
    house.node.answer = answer_hello
    house.gateway.nodes.breaker("n0").succeeded()  # what they all know of the node is not the point
    await house.until_routable()
    after = await house.chat(stream=True)
    assert after.text.endswith("data: [DONE]\n\n"), after.text
    return response


@settings(max_examples=150, report_multiple_bugs=False, phases=[Phase.generate])
@given(pieces(), st.sampled_from(["/v1/chat/completions", "/v1/messages"]), st.booleans())
def test_a_client_gets_one_end_and_the_next_request_an_answer(asking, parts, path, stream):
    response = asking(parts, path, stream)
    if response.status_code != 200:
        assert response.json()["error"]["message"]
        return
    if not stream:
        assert isinstance(response.json(), dict)  # what is in it is the node's word
        return
    failed = [at for at, event in enumerate(events(response.text)) if is_error(event)]
    assert failed in ([], [len(events(response.text)) - 1]), response.text
    ends = (
        response.text.count("data: [DONE]") if "chat" in path else response.text.count("event: message_stop")
    )
    assert ends + len(failed) == 1, response.text


def events(text: str) -> list[str]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # all three end a line
    return [event.strip("\n") for event in text.split("\n\n") if event.strip()]


def is_error(event: str) -> bool:
    """One that a client can read: what the node left half said is none."""
    if event.startswith("event: error"):
        return True
    with suppress(ValueError):
        return event.startswith('data: {"error":') and bool(json.loads(event.removeprefix("data: ")))
    return False

"""Whatever happens to an exchange, and in whatever order, it ends once and keeps nothing."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from cortex_site.config.cortex_toml import CortexConfig, GatewaySettings, RedisSettings
from cortex_site.http.protocol import ServerProtocol
from ext.prefetch import Grant
from fleet.gateway.app import application
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.http import pool
from fleet.gateway.http.connection import Connection
from fleet.key_limits import KeyLimits
from fleet.snapshot import KeyView, ModelView, NodeConfig, NodeView
from tests.gateway.conftest import MODEL, NO_REDIS
from tests.stubs.fake_control import FakeControl
from tests.stubs.fake_transport import FakeTransport

KEY = KeyView("k", "8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a", limits=KeyLimits(9**9))
BODY = json.dumps({"id": "c", "choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}).encode()
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
REFUSAL = b"HTTP/1.1 503 X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
EVENT = b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
    + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)
ANSWERS = {"whole": WHOLE, "refusal": REFUSAL, "stream": STREAM, "noise": b"\0\0\r\n\r\n"}


class NodeSocket(FakeTransport):
    """The node's end: answers what it is asked in pieces, when it is told to."""

    rest = b""
    is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def receive(self, answer: bytes, size: int) -> None:
        if self.written and not self.is_closing():
            data = self.rest or answer
            self.rest = data[size:]
            if not self.rest:
                self.written.clear()
            self.get_protocol().data_received(data[:size])


class ClientSocket(FakeTransport):
    """The client's end: tells each write from the others."""

    def __init__(self, protocol: ServerProtocol) -> None:
        super().__init__(protocol)
        self.pieces: list[bytes] = []

    def write(self, data) -> None:
        super().write(data)
        self.pieces.append(bytes(data))


class World:
    """One client connection, a gateway and a node, without sockets."""

    def __init__(self, plane: DataPlane, protocol: ServerProtocol, state: ServerState) -> None:
        self.plane, self.state = plane, state
        self.protocol = protocol
        self.client = ClientSocket(protocol)
        protocol.connection_made(self.client)
        self.sockets: list[NodeSocket] = []
        self.number = 0
        self.bounds = PATIENT

    async def connect(self, *_) -> Connection:
        connection = Connection(self.bounds)
        socket = NodeSocket(connection)
        connection.connection_made(socket)
        self.sockets.append(socket)
        return connection

    def ask(self, *, stream: bool) -> None:
        if self.client.is_closing():
            return
        self.number += 1
        body = json.dumps({"model": MODEL, "messages": [], "stream": stream}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\n"
        head += f"x-request-id: r{self.number}\r\ncontent-length: {len(body)}\r\n\r\n"
        self.client.get_protocol().data_received(head.encode() + body)

    def answer(self, what: str, size: int) -> None:
        for socket in self.sockets:
            socket.receive(ANSWERS[what], size)

    def lose_nodes(self) -> None:
        for socket in self.sockets:
            socket.close()

    async def settle(self) -> None:
        for _ in range(40):
            await asyncio.sleep(0)


PATIENT, IMPATIENT = pool.PoolBounds(), pool.PoolBounds(first_byte_s=0.002, idle_s=0.002)


def made_plane() -> DataPlane:
    config = CortexConfig(gateway=GatewaySettings(), redis=RedisSettings(url=NO_REDIS))
    control = FakeControl()
    node = NodeConfig("n", "http://127.0.0.1:1")
    control.change(nodes={"n": node}, keys={KEY.digest: KEY}, has_keys=True)
    plane = DataPlane(config, control, lambda rows: None)
    plane.fleet.set_configuration(control.current)
    return plane


@asynccontextmanager
async def world(monkeypatch, *, held: bool):
    plane, state = made_plane(), ServerState()
    served = uvicorn.Config(
        application(plane), http=ServerProtocol, ws="none", log_config=None, proxy_headers=False
    )
    served.load()
    made = World(plane, ServerProtocol(served, state, {}, asyncio.get_running_loop()), state)
    monkeypatch.setattr(pool, "connect", made.connect)
    await plane.nodes.update()
    await made.settle()
    made.sockets.clear()  # those that follow the node
    node = plane.fleet.snapshot.configuration.nodes["n"]
    plane.fleet.set_node(NodeView(node, healthy=True, models={MODEL: ModelView(MODEL, "loaded")}))
    if held:
        now = time.time()
        given = Grant("g", 10**9, 0, now, now, now, 1000, 1000)
        plane.limiter.prefetches[KEY.digest].hold(KEY, given, given, now, now + 1e6, [])
    try:
        yield made
    finally:
        made.client.close()
        made.lose_nodes()
        await made.settle()
        await plane.nodes.close()
        await plane.loader.close()
        await plane.limiter.close()


EVENTS = st.one_of(
    st.tuples(st.just("ask"), st.booleans()),
    st.tuples(st.just("answer"), st.sampled_from(sorted(ANSWERS)), st.integers(1, 400)),
    st.tuples(st.sampled_from(["leave", "lose", "stop", "turn", "settle", "silence", "full", "room"])),
)


async def happen(here: World, event: tuple) -> None:
    match event:
        case ("ask", stream):
            here.ask(stream=stream)
        case ("answer", what, size):
            here.answer(what, size)
        case ("leave",):
            here.client.close()
        case ("lose",):
            here.lose_nodes()
        case ("stop",):
            here.protocol.cancel()
        case ("full",):
            here.client.get_protocol().pause_writing()
        case ("room",):
            here.client.get_protocol().resume_writing()
        case ("silence",):
            await asyncio.sleep(0.003)
        case ("turn",):
            await asyncio.sleep(0)
        case ("settle",):
            await here.settle()


async def run(monkeypatch, events, *, held: bool, bounds=PATIENT) -> None:
    async with world(monkeypatch, held=held) as here:
        here.bounds = bounds
        for event in events:
            await happen(here, event)
        here.client.close()
        await here.settle()
        here.lose_nodes()
        await here.settle()
        for _ in range(200):
            if not here.state.tasks:
                break
            await asyncio.sleep(0.01)
        records = [json.loads(row)["request_id"] for row in here.plane.recorder.ledger.take_rows()]
        assert records
        assert len(records) == len(set(records)), "an exchange ended twice"
        assert not here.state.tasks
        assert here.plane.nodes.in_flight("n") == 0
        assert here.plane.limiter.prefetches[KEY.digest].open == 0
        assert here.plane.open_streams == 0
        assert len(records) <= here.number


WARM = [("ask", False), ("settle",), ("answer", "whole", 400), ("settle",)]  # leaves a kept connection


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=14), st.booleans(), st.sampled_from([PATIENT, IMPATIENT]))
@example([("ask", False), ("leave",)], True, PATIENT)
@example([("ask", False), ("silence",), ("silence",), ("settle",)], True, IMPATIENT)
@example([("ask", False), ("answer", "whole", 20), ("leave",)], True, PATIENT)
@example([("ask", True), ("answer", "stream", 90), ("settle",), ("leave",)], True, PATIENT)
@example([("ask", False), ("leave",), ("answer", "whole", 400)], True, PATIENT)
@example([("ask", True), ("leave",), ("answer", "stream", 110)], True, PATIENT)
@example([("ask", False), ("stop",), ("settle",)], True, PATIENT)
@example([("ask", True), ("answer", "stream", 90), ("stop",), ("settle",)], True, PATIENT)
@example([("ask", True), ("answer", "stream", 90), ("full",), ("lose",), ("room",)], True, PATIENT)
@example([("ask", True), ("full",), ("answer", "stream", 400), ("settle",), ("room",)], True, PATIENT)
@example([("ask", False), ("lose",), ("settle",), ("answer", "whole", 400)], True, PATIENT)
@example(
    [("ask", False), ("ask", False), ("ask", True), ("answer", "whole", 400), ("settle",)], True, PATIENT
)
def test_every_exchange_ends_once_and_gives_everything_back(events, held, bounds):
    with pytest.MonkeyPatch.context() as monkeypatch, asyncio.Runner() as runner:
        runner.run(run(monkeypatch, [*WARM, *events], held=held, bounds=bounds))


async def test_the_ordinary_request_makes_no_task(monkeypatch):
    async with world(monkeypatch, held=True) as here:
        for event in WARM:
            await happen(here, event)
        before = asyncio.all_tasks()
        here.ask(stream=False)
        assert asyncio.all_tasks() == before
        here.answer("whole", 400)
        assert asyncio.all_tasks() == before
        assert here.client.written.count(b"HTTP/1.1 200 OK") == 2
        assert not here.state.tasks


@asynccontextmanager
async def streaming(monkeypatch, size: int):
    """A world with a stream of which so many bytes have come, the tasks that were there before it."""
    async with world(monkeypatch, held=True) as here:
        for event in WARM:
            await happen(here, event)
        before = asyncio.all_tasks()
        here.client.pieces.clear()
        here.ask(stream=True)
        here.answer("stream", size)
        yield here, before


HEAD_SIZE = STREAM.index(b"\r\n\r\n") + 4


async def test_a_stream_makes_no_task(monkeypatch):
    async with streaming(monkeypatch, 110) as (here, before):
        assert here.plane.open_streams == 1
        assert asyncio.all_tasks() == before
        here.answer("stream", 400)
        assert here.plane.open_streams == 0
        assert asyncio.all_tasks() == before
        assert not here.state.tasks
        answer = b"".join(here.client.pieces)
        assert EVENT in answer
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_stream_keeps_no_task_that_had_to_connect_for_it(monkeypatch):
    async with world(monkeypatch, held=True) as here:
        before = asyncio.all_tasks()
        here.ask(stream=True)
        await here.settle()
        here.answer("stream", 110)
        await here.settle()
        assert here.plane.open_streams == 1
        assert asyncio.all_tasks() == before
        here.answer("stream", 400)
        assert bytes(here.client.written).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        here.ask(stream=False)
        here.answer("whole", 400)
        assert here.client.written.count(b"HTTP/1.1 200 OK") == 2


async def test_the_head_of_a_stream_and_its_first_piece_are_one_write(monkeypatch):
    async with streaming(monkeypatch, len(STREAM) - 20) as (here, _):
        [piece] = here.client.pieces
        assert piece.startswith(b"HTTP/1.1 200 OK")
        assert EVENT in piece


async def test_the_head_of_a_stream_does_not_wait_for_its_first_piece(monkeypatch):
    async with streaming(monkeypatch, HEAD_SIZE) as (here, _):
        [piece] = here.client.pieces
        assert piece.startswith(b"HTTP/1.1 200 OK")
        assert piece.endswith(b"\r\n\r\n")


async def test_a_client_that_is_slow_pauses_the_node_until_it_has_room(monkeypatch):
    async with streaming(monkeypatch, HEAD_SIZE) as (here, _):
        [node] = here.sockets
        await happen(here, ("full",))
        here.answer("stream", 110)
        assert node.is_paused
        await happen(here, ("room",))
        assert not node.is_paused
        here.answer("stream", 400)
        assert bytes(here.client.written).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_stream_within_which_the_worker_stops_says_so(monkeypatch):
    async with streaming(monkeypatch, 110) as (here, _):
        here.protocol.cancel()
        await here.settle()
        assert b"gateway_stopping" in here.client.written
        assert bytes(here.client.written).endswith(b"0\r\n\r\n")


def test_every_operation_of_an_exchange_is_begun_without_a_task():
    app = application(made_plane())
    operations = {path for (path, method) in app.endpoints if method == "POST"}
    assert operations >= {
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/responses"),
        *("/v1/messages/count_tokens", "/v1/rerank", "/v2/rerank", "/v1/score", "/tokenize"),
        *("/v1/responses/input_tokens", "/v1/responses/compact"),
    }

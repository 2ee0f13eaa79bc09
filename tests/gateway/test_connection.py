"""`Connection` on a socket that is a list: what is passed on, when reading stops, who hears of a failure."""

from __future__ import annotations

import asyncio

import pytest

from ext.sse import SSEScanner
from ext.stream import Outlet, Tap
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.http.connection import HIGH_WATER_BYTES, Connection
from fleet.gateway.http.errors import UnansweredError, UpstreamError

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
END = b"0\r\n\r\n"


class Socket(asyncio.Transport):
    """What the loop has of a connection."""

    def __init__(self, protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.is_read, self.is_open = True, True
        protocol.connection_made(self)

    def receive(self, data: bytes) -> None:
        assert self.is_read, "received by a socket that is not read"
        self.protocol.data_received(data)

    def set_protocol(self, protocol) -> None:
        self.protocol = protocol

    def write(self, data) -> None: ...

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def is_closing(self) -> bool:
        return not self.is_open

    def abort(self) -> None:
        self.is_open = False


class Taker(Tap):
    """Takes what is poured, says each time whether it wants more, and hears when that was all."""

    def __init__(self, connection: Connection, *wants_more: bool) -> None:
        super().__init__(SSEScanner(), None, Outlet(bytearray().extend, None, chunked=False))
        self.taken = b""
        self.has_all = False
        self._connection = connection
        self._wants_more = list(wants_more)

    def take(self, data: bytes, now: float) -> bool:
        self.taken += data
        return self._wants_more.pop(0) if self._wants_more else True

    def on_news(self) -> None:
        self.has_all = self._connection.is_poured()


@pytest.fixture
async def connection():
    return Connection(PoolBounds(first_byte_s=5, idle_s=5))


@pytest.fixture
async def sock(connection):
    return Socket(connection)


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def sent(connection) -> None:
    """Send a request, and wait for the head of its answer."""
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
    await connection.head()


async def asked(connection, sock, answer: bytes) -> None:
    """Send a request and receive the beginning of its answer."""
    task = asyncio.create_task(sent(connection))
    await soon()
    sock.receive(answer)
    await task


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_a_large_piece_before_the_pour_does_not_stop_the_socket(connection, sock):
    large, taker = b"x" * (HIGH_WATER_BYTES + 1), Taker(connection)
    await asked(connection, sock, HEAD + chunk(large))
    assert not sock.is_read
    connection.pour_into(taker, taker)
    sock.receive(chunk(b"y") + END)
    assert taker.has_all
    assert taker.taken == large + b"y"


async def test_a_slow_taker_pauses_the_socket_until_it_is_drained(connection, sock):
    taker = Taker(connection, True, False)
    await asked(connection, sock, HEAD + chunk(b"a"))
    connection.pour_into(taker, taker)
    sock.receive(chunk(b"b"))
    assert not sock.is_read
    connection.go_on()
    sock.receive(chunk(b"c") + END)
    assert taker.has_all
    assert taker.taken == b"abc"


@pytest.mark.parametrize(
    ("beginning", "end"),
    [(HEAD, chunk(b"a") + END), (LENGTH_HEAD % 1, b"a"), (HEAD + chunk(b"a") + END, b"")],
    ids=["chunked", "length", "at-once"],
)
async def test_a_taker_that_fails_at_the_last_piece_is_heard(connection, sock, beginning, end):
    class Failing(Taker):
        def take(self, data: bytes, now: float) -> bool:
            raise ZeroDivisionError

    taker = Failing(connection)
    await asked(connection, sock, beginning)
    connection.pour_into(taker, taker)
    if end:
        sock.receive(end)
    assert taker.has_all
    assert isinstance(connection.error, ZeroDivisionError)


async def test_a_connection_left_by_a_slow_taker_is_read_by_the_next_exchange(connection, sock):
    taker = Taker(connection, False)
    await asked(connection, sock, HEAD)
    connection.pour_into(taker, taker)
    sock.receive(chunk(b"a") + END)
    assert not taker.has_all
    connection.listen(None)
    assert connection.may_be_kept()
    connection.rest()
    await asked(connection, sock, LENGTH_HEAD % 0)
    assert not await connection.has_body()


async def test_a_body_without_length_lasts_as_long_as_the_connection(connection, sock):
    await asked(connection, sock, b"HTTP/1.1 200 OK\r\n\r\nabc")
    connection.connection_lost(None)
    assert await connection.has_body()
    assert connection.body.take() == b"abc"
    assert not await connection.has_body()
    assert not connection.may_be_kept()


async def test_what_came_before_a_failure_is_taken_before_it_is_raised(connection, sock):
    await asked(connection, sock, HEAD + chunk(b"abc") + b"zz\r\n")
    assert await connection.has_body()
    assert connection.body.take() == b"abc"
    with pytest.raises(UpstreamError, match="not an HTTP answer") as caught:
        await connection.has_body()
    assert caught.value.kind == "protocol"


@pytest.mark.parametrize(("received", "kind"), [(b"", UnansweredError), (b"HTTP/1.1 2", UpstreamError)])
async def test_only_a_connection_that_said_nothing_lost_the_request(connection, sock, received, kind):
    task = asyncio.create_task(sent(connection))
    await soon()
    if received:
        sock.receive(received)
    connection.connection_lost(None)
    with pytest.raises(UpstreamError) as caught:
        await task
    assert (type(caught.value), caught.value.kind) == (kind, "closed")


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH\r\n", LENGTH_HEAD % 5 + b"wrong", b"HTTP/1.1 408 "])
async def test_a_server_that_speaks_first_is_not_asked(connection, sock, said):
    sock.receive(said)
    assert not sock.is_open
    with pytest.raises(UnansweredError):
        await sent(connection)


@pytest.mark.parametrize(("keep_alive_s", "is_fresh"), [(1e6, True), (0.0, False)])
async def test_a_connection_that_rested_long_is_not_fresh(keep_alive_s, is_fresh):
    connection = Connection(PoolBounds(keep_alive_s=keep_alive_s))
    socket = Socket(connection)
    connection.rest()
    assert connection.is_fresh() is is_fresh
    socket.abort()
    assert not connection.is_fresh()

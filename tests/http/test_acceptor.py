"""Workers that share a listening socket: who accepts the next connection."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import ExitStack, closing

import pytest
import uvloop

from cortex_site.base.sharing import HEARD_S, Share, make_table
from cortex_site.http.acceptor import Acceptor, Connections

STREAMS = 64
NOW = 100.0  # all the while, so that no worker is ever silent for long


class Connection(asyncio.Protocol):
    """A connection of one worker; what it sends names the worker."""

    def __init__(self, worker: int, connections: Connections) -> None:
        self._worker, self._connections = worker, connections

    def connection_made(self, transport) -> None:
        self._connections.add(self)
        transport.write(str(self._worker).encode())

    def connection_lost(self, exc) -> None:
        self._connections.discard(self)


class Workers:
    """So many workers on one socket, all in this process; those not `at_work` are said to be there."""

    def __init__(self, stack: ExitStack, count: int, at_work: int) -> None:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=STREAMS))
        table = stack.enter_context(make_table(count))
        self.port = sock.getsockname()[1]
        self.shares = [Share(table.fileno(), place, lambda: NOW) for place in range(count)]
        self.connections = [Connections() for _ in range(count)]
        self._writers: list[asyncio.StreamWriter] = []
        for number in range(at_work):
            own = stack.enter_context(sock.dup())
            acceptor = Acceptor([own], self._make(number), self.shares[number], self.connections[number])
            stack.enter_context(closing(acceptor))

    def _make(self, number: int):
        return lambda: Connection(number, self.connections[number])

    async def connect(self) -> tuple[int, asyncio.StreamWriter]:
        """The worker that accepted a connection, and the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return int(await reader.readexactly(1)), writer

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        await self.lose(*self.connections)

    async def lose(self, *some: Connections) -> None:
        while any(some):
            await asyncio.sleep(0.001)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Runs a scene with so many workers, so many of them at work."""

    async def play(scene, count: int, at_work: int) -> None:
        with ExitStack() as stack:
            workers = Workers(stack, count, at_work)
            try:
                await scene(workers)
            finally:
                await workers.close()

    with asyncio.Runner(loop_factory=request.param) as runner:
        yield lambda scene, count, at_work: runner.run(play(scene, count, at_work))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("at_once", [1, STREAMS])
def test_streams_are_shared_evenly(run, count, at_once):
    async def scene(workers):
        found = Counter[int]()
        for _ in range(STREAMS // at_once):
            made = await asyncio.gather(*(workers.connect() for _ in range(at_once)))
            found.update(worker for worker, _ in made)
        assert max(found.values()) <= 1.2 * STREAMS / count

    run(scene, count, count)


def test_a_worker_with_fewer_open_connections_accepts_the_next(run):
    async def scene(workers):
        made = [await workers.connect() for _ in range(8)]
        for worker, writer in made:
            if worker == 1:
                writer.close()
        await workers.lose(workers.connections[1])
        assert [worker for worker, _ in [await workers.connect() for _ in range(4)]] == [1] * 4

    run(scene, 2, 2)


def test_what_nobody_else_takes_is_accepted_all_the_same(run):
    async def scene(workers):
        workers.shares[1].say(0)
        assert [worker for worker, _ in [await workers.connect() for _ in range(8)]] == [0] * 8

    run(scene, 2, 1)


def test_a_share_is_full_beside_workers_that_were_heard_lately():
    now = 100.0
    with make_table(3) as table:
        one, other, _ = [Share(table.fileno(), place, lambda: now) for place in range(3)]
        one.say(10)
        assert not one.is_full
        other.say(8)
        assert one.is_full
        assert not other.is_full
        other.say(9)
        assert not one.is_full
        other.say(0)
        now += HEARD_S
        assert not one.is_full


def test_nobody_waits_for_a_worker_that_leaves():
    with make_table(2) as table:
        one, other = Share(table.fileno(), 0), Share(table.fileno(), 1)
        other.say(0)
        one.say(1)
        assert one.is_full
        other.leave()
        other.say(0)
        assert not one.is_full

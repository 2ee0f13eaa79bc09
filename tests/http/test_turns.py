"""Much that comes at once is parsed in several turns of the loop, so that others have theirs."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from cortex_site.http.bounds import RequestBounds
from cortex_site.http.client_connection import TURN_BYTES
from tests.http.server import Answers, listening, make_app, request

MUCH = 8 * TURN_BYTES
ONE = request(b"POST", b"/echo", [b"content-length: 1"], b"x")
NUM = MUCH // len(ONE)


def counting_app():
    """An application with room for much, and in `app.judged` the number of heads that it has seen."""
    app = make_app(RequestBounds(2 * MUCH))
    app.judged, judge = 0, app.judge

    def counted(request):
        app.judged += 1
        return judge(request)

    app.judge = counted
    return app


async def most_judged_in_a_turn(app, until: int) -> int:
    most = before = 0
    while before < until:
        await asyncio.sleep(0)
        most, before = max(most, app.judged - before), app.judged
    return most


async def test_others_have_turns_between_many_pipelined_requests():
    app = counting_app()
    async with listening(app) as (port, _), asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turns = asyncio.create_task(most_judged_in_a_turn(app, NUM))
        writer.write(ONE * NUM)
        answers = b"".join([await reader.readuntil(b"\r\n\r\nx") for _ in range(NUM)])
        assert Answers(answers, ended=False).statuses == [200] * NUM
        assert await turns <= TURN_BYTES // len(ONE) + 1
        writer.close()


@pytest.mark.parametrize("chunk_bytes", [7, 5000, MUCH])
async def test_a_large_body_comes_whole_with_what_follows_it(chunk_bytes):
    body = bytes(itertools.islice(itertools.cycle(b"0123456789a"), MUCH))
    chunks = (body[i : i + chunk_bytes] for i in range(0, MUCH, chunk_bytes))
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    coded = request(b"POST", b"/echo", [b"transfer-encoding: chunked"], framed)
    plain = request(b"POST", b"/echo", [b"content-length: %d" % MUCH], body)
    async with listening(counting_app()) as (port, _), asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(coded + ONE + plain + ONE)
        for expected in (body, b"x", body, b"x"):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(expected)) == expected
        writer.close()


async def test_a_connection_that_ends_before_its_next_turn_is_forgotten():
    app = counting_app()
    async with listening(app) as (port, server), asyncio.timeout(60):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ONE * NUM)
        while not app.judged:
            await asyncio.sleep(0)
        writer.transport.abort()
        while server.server_state.connections:
            await asyncio.sleep(0)
        assert app.held.total == 0

"""The load generator finds nothing where nothing is wrong, and every kind of damage."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from contextlib import asynccontextmanager

import pytest

from bench.gateway import mock, ratios
from bench.gateway.check import STALL_NS, StreamCheck, answer_problem
from bench.gateway.load import Job, run

WHOLE = b"".join(mock.chunk(i, 1000 + i) for i in range(3)) + mock.FINISH + mock.DONE


def checked(data: bytes, *, verbatim=True, cut=None) -> StreamCheck:
    check = StreamCheck(3, verbatim=verbatim, started_ns=1000)
    for part in (data[:cut], data[cut:]) if cut else (data,):
        check.feed(part, 2000)
    return check


def test_a_whole_stream_has_no_problem_however_it_is_split():
    for cut in range(1, len(WHOLE)):
        assert not checked(WHOLE, cut=cut).problem()


def test_a_chunks_delay_runs_from_its_writing_to_its_arrival():
    assert StreamCheck(3, verbatim=True, started_ns=0).feed(WHOLE, 5000) == [4000, 3999, 3998]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data.replace(mock.DONE, b""), "[DONE]"),
        (lambda data: data[:-1], "[DONE]"),
        (lambda data: data.replace(mock.chunk(1, 1001), b""), "chunk 2 where 1 was due"),
        (lambda data: data.replace(mock.chunk(2, 1002), b""), "2 chunks instead of 3"),
        (lambda data: data.replace(mock.chunk(1, 1001), mock.chunk(1, 1001) * 2), "chunk 1 where 2"),
        (lambda data: data.replace(mock.FINISH, b""), "finish"),
        (lambda data: data + b": late\n\n", "behind [DONE]"),
    ],
)
@pytest.mark.parametrize("verbatim", [True, False])
def test_missing_and_extra_events_are_found(damage, problem, verbatim):
    assert problem in checked(damage(WHOLE), verbatim=verbatim).problem()


def test_a_changed_byte_is_found_where_bytes_must_pass_unchanged():
    for at in range(len(WHOLE)):
        damaged = WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]
        if damaged[at : at + 1].isdigit():  # a number or a time of its own
            continue
        assert checked(damaged).problem(), damaged[max(0, at - 20) : at + 20]
    spaced = WHOLE.replace(b'":', b'": ')
    assert checked(spaced).problem()
    assert not checked(spaced, verbatim=False).problem()


def test_gaps_and_silence_at_the_end_are_stalls():
    check = StreamCheck(3, verbatim=True, started_ns=0)
    check.feed(mock.chunk(0, 0), STALL_NS)
    assert check.stalls == 0
    check.feed(mock.chunk(1, 0), 2 * STALL_NS + 1)
    assert check.stalls == 1
    check.note_silence(4 * STALL_NS)
    assert check.stalls == 2


def test_an_answers_bytes_are_checked():
    assert not answer_problem(200, mock.ANSWER_BODY, verbatim=True)
    assert answer_problem(503, mock.ANSWER_BODY, verbatim=True) == "status 503"
    assert answer_problem(200, mock.ANSWER_BODY + b" ", verbatim=True)
    assert not answer_problem(200, mock.ANSWER_BODY + b" ", verbatim=False)
    assert answer_problem(200, b"{}", verbatim=False)


# --- on sockets ---


@asynccontextmanager
async def node():
    sock = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(mock.serve(sock))
    try:
        yield sock.getsockname()[1]
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def between(port: int, spoil):
    """A gateway that passes everything, the node's bytes through `spoil(data, writer)`."""

    async def copy(reader, writer, change):
        while data := await reader.read(1 << 16):
            data = await change(data, writer)
            if data is None:
                break
            writer.write(data)
        writer.close()

    async def same(data, _):
        return data

    serving = set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        forth = asyncio.create_task(copy(reader, up_writer, same))
        try:
            await copy(up_reader, writer, spoil)
        finally:
            forth.cancel()
            up_writer.close()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*serving, return_exceptions=True)


STREAMS = {"kind": "streams", "connections": 4, "seconds": 1.5, "gap_us": 20_000}


async def test_the_node_itself_shows_no_problem():
    async with node() as port:
        streams = await run(Job(port=port, **STREAMS))
        closed = await run(Job("closed", port, 4, seconds=0.3))
        first = await run(Job("first", port, 4, seconds=0.3))
    assert streams["broken"] == streams["stalls"] == closed["broken"] == first["broken"] == 0
    assert streams["chunks"] > 10
    assert closed["requests"] > 10
    assert first["requests"] > 10
    assert 0 < streams["delay_ms"]["p50"] <= streams["delay_ms"]["p99"]


async def test_a_stall_is_counted():
    async def hold_once(data, _):
        if b"@00010." in data:
            await asyncio.sleep(1.3)
        return data

    async with node() as port, between(port, hold_once) as gateway:
        figures = await run(Job(port=gateway, **STREAMS))
    assert figures["stalls"] == 4
    assert figures["broken"] == 0


async def test_a_stream_cut_short_is_broken():
    async def cut(data, _):
        return None if b"@00010." in data else data

    async with node() as port, between(port, cut) as gateway:
        figures = await run(Job(port=gateway, **STREAMS))
    assert figures["broken"] == 4
    assert "lost within the answer" in next(iter(figures["problems"]))


async def test_a_clean_end_without_done_is_broken():
    async def swallow(data, _):
        return data.replace(b"e\r\ndata: [DONE]\n\n\r\n", b"")

    async with node() as port, between(port, swallow) as gateway:
        figures = await run(Job(port=gateway, **STREAMS))
    assert figures["problems"] == {"no [DONE] at the end": 4}


async def test_wrong_bytes_are_broken():
    async def change(data, _):
        return data.replace(b'"index":0', b'"index":1')

    async with node() as port, between(port, change) as gateway:
        streams = await run(Job(port=gateway, **STREAMS))
        closed = await run(Job("closed", gateway, 2, seconds=0.2))
    assert streams["broken"] == 4
    assert closed["broken"] == 0  # its JSON has spaces there


# --- ratios ---


def test_ratios_are_medians_of_rounds_and_null_without_a_peer():
    def streams(cpu, p99, stalls=0, broken=0):
        return {"cpu_s_per_million": cpu, "delay_ms": {"p99": p99}, "stalls": stalls, "broken": broken}

    runs = defaultdict(lambda: defaultdict(list))
    runs["json"]["ours"] = [{"rps": 10}, {"rps": 30}, {"rps": 20}]
    runs["json"]["nginx"] = [{"rps": 10}, {"rps": 10}, {"rps": 10}]
    runs["streams-128"]["ours"] = [streams(3, 2, stalls=1), streams(3, 4)]
    runs["streams-512"]["ours"] = [streams(9, 9, broken=2)]
    runs["streams-128"]["nginx"] = [streams(2, 1), streams(1, 1)]
    figures = ratios.keys(runs)
    assert figures["rps_over_nginx"] == 2
    assert figures["rps_over_vllm_router"] is None
    assert figures["cpu_over_nginx"] == (1.5 + 3) / 2
    assert figures["delay_p99_over_nginx"] == 3
    assert (figures["stalls"], figures["broken"]) == (1, 2)


def test_a_scale_is_compared_with_the_plain_turns_next_to_it():
    runs = defaultdict(lambda: defaultdict(list))
    for label, ours in {"keys-plain": (10, 20), "keys": (9, 9), "fleet-plain": (5,), "fleet": (4,)}.items():
        runs[label]["ours"] = [{"rps": rps} for rps in ours]
    figures = ratios.keys(runs)
    assert figures["rps_10k_keys_over_1"] == pytest.approx((0.9 + 0.45) / 2)
    assert figures["rps_200x50_over_1x1"] == pytest.approx(0.8)
    assert figures["rps_2_over_1"] is None

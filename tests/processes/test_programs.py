"""The processes of `cortex serve`: what each is told to listen on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from cortex_site.config.cortex_toml import CortexConfig, GatewaySettings
from cortex_site.processes.programs import Sockets, is_loaded, serve_programs

ANY = "127.0.0.1:0"


def test_the_gateway_s_workers_serve_a_second_address(tmp_path):
    gateway = GatewaySettings(listen=ANY, metrics_listen=ANY, admin_listen=ANY, ollama_listen=ANY, workers=2)
    config = CortexConfig(state_dir=tmp_path, gateway=gateway)
    with closing(Sockets.bind(config)) as sockets:
        *_, workers = serve_programs(config, sockets, {})
        assert len(sockets.of_api) == 2
        listening, table = [sock.fileno() for sock in sockets.of_api], sockets.table.fileno()
        for place, worker in enumerate(workers):
            assert worker.fds == (*listening, table)
            said = ["--fd", *map(str, listening), "--share", str(table), str(place)]
            assert list(worker.argv[-6:]) == said


def test_without_one_there_is_one_socket(tmp_path):
    gateway = GatewaySettings(listen=ANY, metrics_listen=ANY, admin_listen=ANY)
    with closing(Sockets.bind(CortexConfig(state_dir=tmp_path, gateway=gateway))) as sockets:
        assert sockets.of_api == (sockets.api,)
        assert sockets.table is None


@asynccontextmanager
async def answering(status: int, body: object) -> AsyncIterator[tuple[str, int]]:
    """A server with one answer for everything; the value is its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        content = json.dumps(body).encode()
        writer.write(
            b"HTTP/1.1 %d x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(content))
        )
        writer.write(content)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()


@pytest.mark.parametrize(
    ("gateway", "neuron", "loaded"),
    [
        ((200, "loaded"), (200, "loading"), True),
        ((200, "loading"), (200, "loaded"), False),
        ((404, ""), (200, "loaded"), False),  # the gateway has not heard of it yet
        ((401, ""), (200, "loading"), False),
        ((401, ""), (200, "loaded"), True),
        ((401, ""), (401, ""), True),
    ],
)
async def test_a_gateway_that_asks_for_keys_holds_no_start_up(gateway, neuron, loaded):
    async with (
        answering(gateway[0], {"state": gateway[1]}) as one,
        answering(neuron[0], {"state": neuron[1]}) as two,
    ):
        assert await is_loaded("m", one, two, tls=False) is loaded

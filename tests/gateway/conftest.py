from __future__ import annotations

import asyncio
import socket
import tempfile
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from cortex_site.base.addresses import http_url
from cortex_site.base.certificate import TlsFiles
from cortex_site.config.cortex_toml import CortexConfig, GatewaySettings, RedisSettings
from cortex_site.http.protocol import ServerProtocol
from cortex_site.http.server import PLAIN, HttpServer
from fleet.gateway.app import application
from fleet.gateway.data_plane import DataPlane
from fleet.snapshot import NodeConfig, ProfileView
from tests.fleet.servers import RedisServer
from tests.stubs.fake_control import FakeControl
from tests.stubs.fake_node import FakeNode
from tests.stubs.records import RequestRecord, read
from tests.stubs.tls import TLS

MODEL = "m"
NO_REDIS = "unix:///nonexistent/redis.sock"


@dataclass
class House:
    """A gateway worker on a real socket, its nodes and its control plane."""

    gateway: DataPlane
    control: FakeControl
    nodes: list[FakeNode]
    client: httpx.AsyncClient
    records: list[RequestRecord]
    port: int
    page: asyncio.Server  # the control plane's, as far as the gateway sees

    @property
    def node(self) -> FakeNode:
        return self.nodes[0]

    async def until(self, condition) -> None:
        """Wait for a state of the gateway's view."""
        async with asyncio.timeout(10):
            while not condition(self.gateway.fleet.snapshot):
                await asyncio.sleep(0.01)

    async def until_routable(self, model: str = MODEL, replicas: int = 1) -> None:
        await self.until(lambda snapshot: len(snapshot.replicas(model)) == replicas)

    async def burden_all_but(self, first: FakeNode) -> None:
        """The router goes to `first`."""
        others = [node for node in self.nodes if node is not first]
        for node in others:
            await node.set_model(MODEL, running=3)
        await self.until(
            lambda snapshot: sum(view.running == 3 for _, view in snapshot.replicas(MODEL)) == len(others)
        )

    async def record(self, number: int = 1) -> RequestRecord:
        """The number-th record, once it was stored."""
        async with asyncio.timeout(10):
            while len(self.records) < number:
                await asyncio.sleep(0.01)
        return self.records[number - 1]

    async def chat(self, model: str = MODEL, *, stream: bool = False, **extra):
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream} | extra
        return await self.client.post("/v1/chat/completions", json=body)


async def answer_page(reader, writer) -> None:
    with suppress(asyncio.IncompleteReadError):  # the gateway looks whether anybody is there, and leaves
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 302 Found\r\n\r\n")
    writer.close()


class Server(HttpServer):
    """The HTTP server, without its pauses of a tenth of a second: it ends when it is told to."""

    def __init__(self, config: uvicorn.Config, tls: TlsFiles) -> None:
        super().__init__(config, tls)
        self.ended = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for _ in range(10):  # what was accepted becomes a connection, what was closed is none any more
            await asyncio.sleep(0)
        if self.server_state.connections:
            await super().shutdown(sockets)
            return
        self.stop_watching()
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        await self.lifespan.shutdown()


@asynccontextmanager
async def serving(app, tls=PLAIN):
    sock = socket.create_server(("127.0.0.1", 0))
    server = Server(
        uvicorn.Config(
            app,
            http=ServerProtocol,
            lifespan="on",
            log_config=None,
            ws="none",
            timeout_graceful_shutdown=1,
            proxy_headers=False,
        ),
        tls,
    )
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield sock.getsockname()[1]
    finally:
        server.ended.set()
        await task


@asynccontextmanager
async def make_house(
    *,
    nodes: int = 1,
    loaded: bool = True,
    redis_url: str = NO_REDIS,
    redis_timeout_ms=200,
    poll=None,
    responses=None,
    verify=TLS,
    node_tls=None,
    **limits,
):
    fakes = [FakeNode(f"n{index}", node_tls) for index in range(nodes)]
    for fake in fakes:
        await fake.start()
        if loaded:
            await fake.set_model(MODEL)
    control, records = FakeControl(), []
    control.change(
        nodes={fake.name: NodeConfig(fake.name, fake.url) for fake in fakes},
        profiles={MODEL: ProfileView(MODEL, context=4096)},
    )
    page = await asyncio.start_server(answer_page, "127.0.0.1", 0)
    address = "{}:{}".format(*page.sockets[0].getsockname())
    limits = {"configuration_check_s": 0.02, "admin_listen": address} | limits
    config = CortexConfig(
        gateway=GatewaySettings(**limits),
        redis=RedisSettings(url=redis_url, timeout_ms=redis_timeout_ms),
        poll=poll or {},
        responses=responses or {},
    )
    gateway = DataPlane(config, control, lambda rows: records.extend(map(read, rows)))
    async with (
        serving(application(gateway), config.gateway) as port,
        httpx.AsyncClient(
            base_url=http_url("127.0.0.1", port, tls=config.gateway.speaks_tls), timeout=20, verify=verify
        ) as client,
    ):
        house = House(gateway, control, fakes, client, records, port, page)
        if loaded:
            await house.until_routable(replicas=nodes)
        else:
            await house.until(lambda snapshot: all(node.healthy for node in snapshot.nodes.values()))
        yield house
    page.close()
    for fake in fakes:
        await fake.stop()


@pytest.fixture(scope="session")
def redis_folder():
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def redis_server(redis_folder):
    """An empty Redis of the test's own, which it may stop and start again."""
    server = RedisServer(redis_folder)
    server.start()
    yield server
    server.client.close()
    server.stop()


@pytest.fixture
async def house():
    async with make_house() as built:
        yield built

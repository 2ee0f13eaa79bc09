"""The data plane on real services: what a request costs the database, and a configuration that changes."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest
from django.db import connections
from django.db.backends.signals import connection_created

from cortex_site.config.cortex_toml import CortexConfig, GatewaySettings, RedisSettings
from fleet.announcements import CONFIGURATION
from fleet.control_plane import ServicesControl
from fleet.gateway.app import application
from fleet.gateway.data_plane import DataPlane
from fleet.key_limits import KeyLimits
from fleet.models import Alias, ModelProfile, Node
from fleet.services import keys, records
from tests.gateway.conftest import MODEL, serving
from tests.stubs.fake_node import FakeNode

REQUESTS = 10


@pytest.fixture
def queries(db):
    """Every query of every thread that connects from now on, as (thread, SQL)."""
    seen: list[tuple[str, str]] = []

    def note(execute, sql, params, many, context):
        seen.append((threading.current_thread().name, sql))
        return execute(sql, params, many, context)

    def watch(connection, **_):
        if note not in connection.execute_wrappers:
            connection.execute_wrappers.append(note)

    connection_created.connect(watch)
    yield seen
    connection_created.disconnect(watch)


@pytest.fixture
def key(db):
    limits = KeyLimits(requests_per_minute=1000, tokens_per_minute=10**6, concurrent_requests=50)
    _, secret = keys.create("laptop", limits=limits)
    ModelProfile.objects.create(model_id=MODEL, context=4096)
    return secret


async def in_thread(verb) -> None:
    """Rows are written in threads; none keeps its connection."""

    def work() -> None:
        try:
            verb()
        finally:
            connections.close_all()

    await asyncio.to_thread(work)


@pytest.fixture
async def served(key, queries, redis_server):
    """A gateway on the real control plane, its node, and a client with a key."""
    node = FakeNode("n0")
    await node.start()
    await node.set_model(MODEL)
    await in_thread(lambda: Node.objects.create(name="n0", endpoint=node.url))
    config = CortexConfig(
        gateway=GatewaySettings(configuration_check_s=3600), redis=RedisSettings(url=redis_server.url)
    )
    gateway = DataPlane(config, ServicesControl(), records.store)
    async with (
        serving(application(gateway)) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": key}, timeout=20
        ) as client,
    ):
        await until(lambda: gateway.fleet.snapshot.replicas(MODEL))
        yield gateway, client
    await node.stop()


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_request_to_a_loaded_model_asks_the_database_nothing(served, queries, redis_server):
    _, client = served

    def of_configuration() -> list[str]:
        return [sql for thread, sql in queries if thread != "recorder" and "configurationversion" in sql]

    await until(lambda: len(of_configuration()) >= 2)  # once at the start, once when the listener is there
    queries.clear()
    for number in range(REQUESTS):
        stream = bool(number % 2)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert "x-ratelimit-limit-requests" in answer.headers
    await until(lambda: any("requestmetric" in sql.lower() for _, sql in queries))  # so it can be seen
    others = [sql for thread, sql in queries if thread != "recorder"]
    assert len(others) <= 1, others  # a look at the version, should Redis have been away for a moment
    assert all("configurationversion" in sql for sql in others)


async def test_an_operators_change_is_served_within_a_second(served, redis_server):
    _, client = served
    await until(lambda: redis_server.client.pubsub_numsub(CONFIGURATION)[0][1] == 1)
    await in_thread(lambda: Alias.objects.create(name="best", target=MODEL))
    start = time.monotonic()
    body = {"model": "best", "messages": [{"role": "user", "content": "Hi"}]}
    while (await client.post("/v1/chat/completions", json=body)).status_code == 404:
        assert time.monotonic() - start < 1
        await asyncio.sleep(0.01)

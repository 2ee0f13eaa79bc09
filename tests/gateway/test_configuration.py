"""Changes of the configuration: told by Redis, or found without it; and what is missing meanwhile."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from cortex_site.config.cortex_toml import CortexConfig, RedisSettings
from fleet.announcements import CONFIGURATION, POLLED
from fleet.gateway.app import application
from fleet.gateway.control import listener
from fleet.gateway.data_plane import DataPlane
from fleet.snapshot import NodeConfig
from tests.gateway.conftest import MODEL, NO_REDIS, answer_page, make_house, serving
from tests.stubs.fake_control import FakeControl
from tests.stubs.fake_node import FakeNode

NEVER_S = 3600.0


@pytest.fixture(autouse=True)
def _quick_reconnection(monkeypatch):
    monkeypatch.setattr(listener, "RECONNECT_S", 0.05)


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def listening(redis_server) -> None:
    await until(lambda: redis_server.client.pubsub_numsub(CONFIGURATION)[0][1] == 1)


async def test_an_announced_change_is_there_at_once(redis_server):
    async with make_house(redis_url=redis_server.url, configuration_check_s=NEVER_S) as house:
        await listening(redis_server)
        house.control.change(aliases={"a": "m"})
        start = time.monotonic()
        redis_server.client.publish(CONFIGURATION, house.control.current.version)
        await house.until(lambda snapshot: snapshot.configuration.aliases)
        assert time.monotonic() - start < 1
        assert (await house.chat("a")).status_code == 200


async def test_without_redis_the_version_check_finds_a_change():
    async with make_house(redis_url=NO_REDIS, configuration_check_s=0.1) as house:
        house.control.change(aliases={"a": "m"})
        await house.until(lambda snapshot: snapshot.configuration.aliases)
        assert house.gateway.missing == ["redis"]


async def test_a_change_announced_while_redis_was_away_is_found_when_it_is_back(redis_server):
    async with make_house(redis_url=redis_server.url, configuration_check_s=NEVER_S) as house:
        await listening(redis_server)
        redis_server.stop()
        await until(lambda: house.gateway.missing == ["redis"])
        assert (await house.chat()).status_code == 200
        house.control.change(aliases={"a": "m"})
        redis_server.start()
        await house.until(lambda snapshot: snapshot.configuration.aliases)
        assert house.gateway.missing == []


async def test_tasks_that_are_not_heard_of_are_missing_until_they_are(redis_server):
    async with make_house(redis_url=redis_server.url) as house:
        await listening(redis_server)
        house.gateway.listener._polled_within_s = 0.0
        assert house.gateway.missing == ["tasks"]
        house.gateway.listener._polled_within_s = 1.0
        await until(lambda: house.gateway.missing == ["tasks"])
        redis_server.client.publish(POLLED, 1)
        await until(lambda: house.gateway.missing == [])


async def test_database_away_changes_nothing_for_loaded_models(redis_server):
    async with make_house(redis_url=redis_server.url) as house:
        await listening(redis_server)
        house.control.down = True
        await until(lambda: house.gateway.missing == ["database"])
        assert (await house.chat()).status_code == 200
        health = (await house.client.get("/health")).json()
        assert (health["status"], health["missing"]) == ("impaired", ["database"])
        house.control.down = False
        await until(lambda: house.gateway.missing == [])


async def test_a_stop_ends_the_subscription(redis_server):
    async with make_house(redis_url=redis_server.url):
        await listening(redis_server)
    assert redis_server.client.pubsub_numsub(CONFIGURATION)[0][1] == 0
    assert "listener" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_control_plane_that_does_not_answer_is_missing_until_it_does(redis_server):
    async with make_house(redis_url=redis_server.url, poll={"interval_s": 0.05}) as house:
        await until(lambda: "control" not in house.gateway.missing)
        address = house.page.sockets[0].getsockname()
        house.page.close()
        await until(lambda: "control" in house.gateway.missing)
        assert (await house.chat()).status_code == 200
        page = await asyncio.start_server(answer_page, *address)
        await until(lambda: "control" not in house.gateway.missing)
        page.close()


async def test_a_worker_serves_once_its_nodes_have_reported_their_models():
    """A model that only a node names is no unknown model while that node has not spoken."""
    node = FakeNode("n0")
    respond = node._respond

    async def late(request, reader, writer):
        if request.path == "/events":
            await asyncio.sleep(0.3)
        await respond(request, reader, writer)

    node._respond = late
    await node.start()
    await node.set_model(MODEL)
    control = FakeControl()
    control.change(nodes={"n0": NodeConfig("n0", node.url), "away": NodeConfig("away", "http://127.0.0.1:1")})
    gateway = DataPlane(CortexConfig(redis=RedisSettings(url=NO_REDIS)), control, [].extend)
    async with serving(application(gateway)) as port, httpx.AsyncClient() as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
        answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)
    await node.stop()
    assert answer.status_code == 200, answer.text

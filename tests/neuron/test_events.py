from __future__ import annotations

import asyncio
import json

from neuron.events import Events
from neuron.wire import Health, NodeState


def make(interval_s=0.0, keepalive_s=60.0):
    built = []

    def state(seq):
        built.append(seq)
        health = Health(status="ok", uptime_s=0, pid=1, rss_mb=1, devices=[], models=[])
        return NodeState(seq=seq, health=health, models=[])

    return Events(state, interval_s=interval_s, keepalive_s=keepalive_s), built


async def test_a_slow_reader_gets_the_newest_state_only():
    events, built = make()
    reader = events.subscribe()
    await anext(reader)
    for _ in range(1000):
        events.changed(True)
    assert json.loads(data_of(await anext(reader)))["seq"] == 1000
    assert built == [0, 1000]
    await reader.aclose()


async def test_all_readers_share_one_encoding():
    events, built = make()
    readers = [events.subscribe() for _ in range(5)]
    assert len({await anext(reader) for reader in readers}) == 1
    assert built == [0]
    for reader in readers:
        await reader.aclose()


async def test_changes_of_load_are_put_together_and_urgent_ones_are_not():
    events, _ = make(interval_s=3600)
    reader = events.subscribe()
    await anext(reader)
    waiting = asyncio.ensure_future(anext(reader))
    for _ in range(3):
        events.changed(False)
    await asyncio.sleep(0)
    assert not waiting.done()
    events.changed(True)
    assert json.loads(data_of(await waiting))["seq"] == 1
    await reader.aclose()


async def test_changes_of_load_come_when_the_interval_is_over():
    events, _ = make(interval_s=0.001)
    reader = events.subscribe()
    await anext(reader)
    events.changed(False)
    events.changed(False)
    assert json.loads(data_of(await anext(reader)))["seq"] == 1
    await reader.aclose()


async def test_close_ends_every_subscription():
    events, _ = make()
    reader = events.subscribe()
    await anext(reader)
    events.close()
    assert [item async for item in reader] == []


def data_of(event):
    return next(line for line in event.decode().splitlines() if line.startswith("data: "))[6:]

from __future__ import annotations

import asyncio

from neuron.generation import Generation
from neuron.pipe import Finished, Refused

FOREVER = 3600.0
END = Finished(1, "stop", 3, 2)


def make(max_unread=100):
    cancelled = []
    return Generation(1, "m", cancel=cancelled.append, max_unread=max_unread), cancelled


async def test_unread_tokens_are_read_together():
    generation, _ = make()
    generation.push([1])
    generation.push([2, 3])
    assert await generation.read(FOREVER) == [1, 2, 3]


async def test_a_reader_is_woken_by_tokens_and_by_the_end():
    generation, _ = make()
    reading = asyncio.ensure_future(generation.read(FOREVER))
    await asyncio.sleep(0)
    generation.push([1])
    assert await reading == [1]
    reading = asyncio.ensure_future(generation.read(FOREVER))
    await asyncio.sleep(0)
    generation.finish(END)
    assert await reading == []
    assert generation.end is END


async def test_read_returns_none_after_its_timeout():
    generation, _ = make()
    assert await generation.read(0.001) is None


async def test_tokens_before_the_end_are_not_lost():
    generation, _ = make()
    generation.push([1])
    generation.finish(END)
    assert await generation.read(FOREVER) == [1]
    assert await generation.read(FOREVER) == []


async def test_generation_ends_once_and_is_cancelled_once():
    generation, cancelled = make()
    generation.cancel()
    generation.cancel()
    assert cancelled == [1]
    generation.finish(END)
    generation.finish(Refused(1, 503, "late", "late"))
    generation.push([5])
    assert generation.end is END
    assert await generation.read(FOREVER) == []
    generation, cancelled = make()
    generation.finish(END)
    generation.cancel()
    assert cancelled == []


async def test_too_many_unread_tokens_end_the_generation():
    generation, cancelled = make(max_unread=3)
    generation.push([1, 2, 3])
    assert generation.end is None
    generation.push([4])
    assert cancelled == [1]
    assert generation.end.code == "client_too_slow"
    generation.push([5])
    assert await generation.read(FOREVER) == [1, 2, 3, 4]

"""Tasks that are ended, whatever they do with their cancellation."""

from __future__ import annotations

import asyncio

from cortex_site.base import ending


async def test_a_task_that_loses_a_cancellation_is_ended(monkeypatch):
    monkeypatch.setattr(ending, "AGAIN_S", 0.01)
    lost = []

    async def stubborn():
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError as error:
                if len(lost) == 2:
                    raise
                lost.append(error)

    async def broken():
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(broken())]
    await asyncio.sleep(0)
    await ending.end(tasks)
    assert all(task.done() for task in tasks)
    assert len(lost) == 2


async def test_nothing_is_ended_at_once():
    await ending.end([])

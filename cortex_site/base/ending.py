"""Ends tasks, also those that lose a cancellation: libraries turn one into an error of their own at times."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

AGAIN_S = 0.5  # between cancellations of a task that goes on


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until all of them are over. What they raise is dropped."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)

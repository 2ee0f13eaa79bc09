"""A bounded queue in which principals take turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of principals: each principal's in order, the principals round robin. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._len = 0
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()  # whose turn is next first; no empty deques

    def __len__(self) -> int:
        return self._len

    def push(self, principal: str, item: T) -> T | None:
        """Add an item, and return the one that a full queue drops for it, if any.

        That is the newest item of the principal with the most; `item` itself, unless its principal has fewer
        even with it.
        """
        dropped = None
        if self._len >= self._limit:
            most = max(self._waiting, key=lambda name: len(self._waiting[name]), default=principal)
            if len(self._waiting.get(most, ())) <= len(self._waiting.get(principal, ())) + 1:
                return item
            dropped = self._waiting[most].pop()
            self._len -= 1
        self._waiting.setdefault(principal, deque()).append(item)
        self._len += 1
        return dropped

    def pop(self) -> T:
        """Take the oldest item of the principal whose turn it is. Raises IndexError when there is none."""
        if not self._len:
            raise IndexError("the queue is empty")
        principal, items = next(iter(self._waiting.items()))
        item = items.popleft()
        self._len -= 1
        if items:
            self._waiting.move_to_end(principal)
        else:
            del self._waiting[principal]
        return item

    def discard(self, principal: str, item: T) -> None:
        """Take an item out of turn, if it is there."""
        items = self._waiting.get(principal, deque())
        if item not in items:
            return
        items.remove(item)
        self._len -= 1
        if not items:
            del self._waiting[principal]

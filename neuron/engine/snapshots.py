"""Copies of states at the ends of pages, each under the hash of the page that ends there.

A state cannot be cut back to a prefix, so a request shares the pages of one only up to a snapshot. Knows
numbers only: the device copies a slot's states to and from row `number` when a plan says so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from neuron.engine.page_allocator import PageHash


class Snapshots:
    """Rows 0..count-1 for snapshots; the least recently used one makes room."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))
        self._row_of: OrderedDict[PageHash, int] = OrderedDict()
        self._count = count

    def find(self, hashes: Sequence[PageHash]) -> tuple[int, int | None]:
        """Return how many of a prefix's pages the longest snapshot covers, and its row."""
        for count in range(len(hashes), 0, -1):
            if (row := self._row_of.get(hashes[count - 1])) is not None:
                self._row_of.move_to_end(hashes[count - 1])
                return count, row
        return 0, None

    def contains(self, digest: PageHash) -> bool:
        return digest in self._row_of

    def take(self) -> int | None:
        """Return a row to write to, which `add` or `release` gives back; None when there is none."""
        if self._free:
            return self._free.pop()
        return self._row_of.popitem(last=False)[1] if self._row_of else None

    def add(self, digest: PageHash, row: int) -> None:
        """Let others find a row that has been written. The first row with a hash keeps it."""
        if digest in self._row_of:
            self._free.append(row)
        else:
            self._row_of[digest] = row

    def release(self, row: int) -> None:
        """Give back a row that was not written."""
        self._free.append(row)

    def drop(self, digest: PageHash) -> None:
        """Forget a snapshot, if it is still there."""
        if (row := self._row_of.pop(digest, None)) is not None:
            self._free.append(row)

    def clear(self) -> None:
        for digest in tuple(self._row_of):
            self.drop(digest)

    def check(self) -> None:
        """Raise AssertionError unless every row is free or found, once."""
        assert sorted([*self._free, *self._row_of.values()]) == list(range(self._count))

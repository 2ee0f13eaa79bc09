"""Copies of states at the ends of pages, each under the hash of the page that ends there.

A state cannot be cut back to a prefix, so a request shares the pages of one only up to a snapshot. Knows
numbers only: the device copies a slot's states to and from row `number` when a plan says so.

A snapshot that makes room on the device leaves for host memory, and a request takes on its states from there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from neuron.engine.page_allocator import PageHash


class Snapshots:
    """Rows 0..count-1 for snapshots, and `num_host` more in host memory; the least recently used one
    makes room."""

    def __init__(self, count: int, num_host: int = 0) -> None:
        self._free = list(range(count - 1, -1, -1))
        self._row_of: OrderedDict[PageHash, int] = OrderedDict()
        self._count = count
        self._host = _HostRows(range(count, count + num_host))

    def find(self, hashes: Sequence[PageHash]) -> tuple[int, int | None]:
        """Return how many of a prefix's pages the longest snapshot covers, and its row."""
        for count in range(len(hashes), 0, -1):
            if (row := self._row_of.get(hashes[count - 1])) is not None:
                self._row_of.move_to_end(hashes[count - 1])
                return count, row
            if (row := self._host.find(hashes[count - 1])) is not None:
                return count, row
        return 0, None

    def contains(self, digest: PageHash) -> bool:
        return digest in self._row_of or digest in self._host.rows

    def begin_with(self, row: int) -> None:
        """Note that the step that is being planned reads a row, which `find` has returned."""
        self._host.read.add(row)

    def take(self) -> int | None:
        """Return a row to write to, which `add` or `release` gives back; None when there is none."""
        if self._free:
            return self._free.pop()
        if not self._row_of:
            return None
        digest, row = self._row_of.popitem(last=False)
        self._host.put(row, digest)
        return row

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
        self._host.drop(digest)

    def leaving(self) -> tuple[tuple[int, int], ...]:
        """Return what the step copies before all else: rows of the device, each to one in host memory."""
        return tuple((row, to) for row, to, _ in self._host.leaving)

    def applied(self) -> None:
        """Note that the step has run."""
        self._host.end_step()

    def failed(self) -> None:
        """Note that the step has not run to its end: what was leaving is lost."""
        lost = [digest for _, _, digest in self._host.leaving]
        self._host.end_step()
        for digest in lost:
            self._host.drop(digest)

    def clear(self) -> None:
        for digest in (*self._row_of, *self._host.rows):
            self.drop(digest)

    def check(self) -> None:
        """Raise AssertionError unless every row is free or found, once."""
        assert sorted([*self._free, *self._row_of.values()]) == list(range(self._count))
        self._host.check()


class _HostRows:
    """Rows of snapshots in host memory, and what the step that is being planned does with them."""

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers
        self._free = list(reversed(numbers))
        self.rows: OrderedDict[PageHash, int] = OrderedDict()  # least recently used first
        self.leaving: list[tuple[int, int, PageHash]] = []  # row of the device, row here
        self.read: set[int] = set()  # rows, which are not written in this step

    def find(self, digest: PageHash) -> int | None:
        if digest in self.rows:
            self.rows.move_to_end(digest)
        return self.rows.get(digest)

    def put(self, row: int, digest: PageHash) -> None:
        """Let a row of the device leave, unless it has before or all rows here are being read."""
        if digest in self.rows:
            return
        if not self._free:
            oldest = next((known for known, number in self.rows.items() if number not in self.read), None)
            if oldest is None:
                return
            self.drop(oldest)
        if self._free:
            self.rows[digest] = self._free.pop()
            self.leaving.append((row, self.rows[digest], digest))

    def drop(self, digest: PageHash) -> None:
        """Forget a row, unless this step reads it."""
        if self.rows.get(digest) in self.read:
            return
        if (number := self.rows.pop(digest, None)) is not None:
            self._free.append(number)
            self.leaving = [move for move in self.leaving if move[2] != digest]

    def end_step(self) -> None:
        self.leaving, self.read = [], set()

    def check(self) -> None:
        assert sorted([*self._free, *self.rows.values()]) == list(self._numbers)

"""Pages that left the device for host memory, by the hash of what they hold.

A cached page that is evicted goes to a row of host memory; a request that shares it gets the row's content
back into a page of its own. Rows are used again, the least recently used first, but none that a plan under
way reads. Knows numbers only: the device copies what a `StepPlan` says, first what leaves, then what returns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from neuron.engine.page_allocator import PageHash

Pairs = tuple[tuple[int, int], ...]
Moves = tuple[Pairs, Pairs]  # of `StepPlan`: leaving, returning


class HostPages:
    """The rows 0..num_rows-1, and what moves in the step that is being planned."""

    def __init__(self, num_rows: int) -> None:
        self._free = list(range(num_rows - 1, -1, -1))
        self._rows: OrderedDict[PageHash, int] = OrderedDict()  # least recently used first
        self._leaving: list[tuple[int, int, PageHash]] = []  # page, row
        self._returning: list[tuple[int, int, PageHash]] = []  # row, page
        self._held: frozenset[PageHash] = frozenset()

    def __contains__(self, digest: PageHash) -> bool:
        return digest in self._rows

    def match(self, hashes: Sequence[PageHash]) -> int:
        """Return how many of the first `hashes` are here. Changes nothing."""
        return next((count for count, digest in enumerate(hashes) if digest not in self._rows), len(hashes))

    def put(self, page: int, digest: PageHash) -> None:
        """Let a page that is evicted leave for a row, unless it has one or all rows are being read."""
        if digest in self._rows:
            self._rows.move_to_end(digest)
            return
        read = {row for row, _, _ in self._returning} | {self._rows[held] for held in self._held}
        if not self._free:
            oldest = next((known for known, row in self._rows.items() if row not in read), None)
            if oldest is None:
                return
            self._drop(oldest)
        row = self._free.pop()
        self._rows[digest] = row
        self._leaving.append((page, row, digest))

    def hold(self, hashes: Sequence[PageHash]) -> None:
        """Keep what `match` has found until the next call, whatever leaves meanwhile."""
        self._held = frozenset(hashes)

    def take(self, digest: PageHash, page: int) -> None:
        """Let what `match` has found return into a page. The row keeps it, too."""
        self._rows.move_to_end(digest)
        self._returning.append((self._rows[digest], page, digest))

    def moves(self) -> Moves:
        """Return what the step has to copy: (page, row) of what leaves, then (row, page) of what returns."""
        leaving = tuple((page, row) for page, row, _ in self._leaving)
        return leaving, tuple((row, page) for row, page, _ in self._returning)

    def applied(self) -> list[tuple[int, PageHash]]:
        """Note that the step has run, and return the pages that hold again what they are named by."""
        returned = [(page, digest) for _, page, digest in self._returning]
        self._leaving, self._returning = [], []
        return returned

    def failed(self) -> None:
        """Note that the step has not run to its end: what was leaving is lost."""
        for _, _, digest in self._leaving:
            if digest in self._rows:
                self._drop(digest)
        self._leaving, self._returning = [], []

    def clear(self) -> None:
        """Drop everything that no plan under way reads or writes."""
        busy = {digest for _, _, digest in (*self._leaving, *self._returning)}
        for digest in [known for known in self._rows if known not in busy]:
            self._drop(digest)

    def _drop(self, digest: PageHash) -> None:
        self._free.append(self._rows.pop(digest))
        self._leaving = [move for move in self._leaving if move[2] != digest]

    def check(self) -> None:
        """Raise AssertionError unless every row is free or holds one page."""
        assert len(self._free) + len(self._rows) == len({*self._free, *self._rows.values()})

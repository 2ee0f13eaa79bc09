"""What is kept of prefixes that requests share: pages and, of a model with states, snapshots of these.

A snapshot is taken where a chunk ends at the end of a page: a prompt's chunks are cut so that the last full
page of the prompt is one of these, and of an answer the latest full page is. So a chat's next turn computes
what is new in it, and what follows the last snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence

from neuron.engine.page_allocator import PageAllocator, PageHash
from neuron.engine.prefix_index import PrefixIndex
from neuron.engine.request import EngineRequest
from neuron.engine.snapshots import Snapshots
from neuron.step import CacheShape, Chunk


class PrefixCache:
    """Finds the prefixes of new requests, and learns those of running ones."""

    def __init__(self, pages: PageAllocator, shape: CacheShape, *, has_states: bool) -> None:
        self._pages = pages
        self._index = PrefixIndex(self._can_begin, shape.page_size)
        self._page_size = shape.page_size
        self._snapshots = Snapshots(shape.num_snapshots) if has_states else None

    def find(self, request: EngineRequest) -> tuple[tuple[int, ...], int | None]:
        """Return the cached pages that the request can share, and the snapshot it then begins with."""
        if request.is_scoring:
            return (), None
        # The last token always runs: the cache does not hold its logits.
        hashes = request.page_hashes((len(request.tokens) - 1) // self._page_size, self._page_size)
        pages = self._pages.match(hashes)
        if self._snapshots is None:
            return pages, None
        count, row = self._snapshots.find(hashes[: len(pages)])
        return pages[:count], row

    def chunk_size(self, request: EngineRequest, most: int) -> int:
        """Return how many tokens of a prompt to run: `most`, or fewer to end where a snapshot is taken."""
        if self._snapshots is None:
            return most
        start = request.num_computed
        end = min(start + most, len(request.tokens) - 1) // self._page_size * self._page_size
        return end - start if end > start else most

    def snapshot(self, end: int) -> int | None:
        """Return the row for a snapshot after a chunk that ends at `end`; None where none is taken."""
        if self._snapshots is None or end % self._page_size:
            return None
        return self._snapshots.take()

    def add(self, request: EngineRequest, end: int, snapshot: int | None) -> None:
        """Share the pages that became full by a request's chunk up to `end`, and the snapshot taken there."""
        size, start = self._page_size, request.num_computed
        first, last = start // size, end // size
        if last > first:
            hashes = request.page_hashes(last, size)
            for index in range(first, last):
                self._pages.register(request.pages[index], hashes[index])
            if self._snapshots and snapshot is not None:
                self._snapshots.add(hashes[last - 1], snapshot)
                if start >= request.num_prompt:  # of an answer the end alone is of use
                    if request.snapshot_in_answer:
                        self._snapshots.drop(request.snapshot_in_answer)
                    request.snapshot_in_answer = hashes[last - 1]
        if request.marks and end >= request.num_prompt:
            self._index.add(request.marks, request.page_hashes(last, size))
            request.marks = []

    def give_up(self, chunks: Sequence[Chunk]) -> None:
        """Take back the snapshots of chunks that have not run."""
        for chunk in chunks:
            if self._snapshots and chunk.snapshot is not None:
                self._snapshots.release(chunk.snapshot)

    def clear(self) -> None:
        """Drop what no running request has."""
        self._pages.clear_cached()
        if self._snapshots:
            self._snapshots.clear()

    def resident(self) -> list[int]:
        """Return the digests of prefixes that are cached, sorted."""
        return self._index.resident()

    def _can_begin(self, digest: PageHash) -> bool:
        """Return whether a request that shares this page can begin after it."""
        has_states = self._snapshots is None or self._snapshots.contains(digest)
        return has_states and self._pages.contains(digest)

    def check(self) -> None:
        """Raise AssertionError unless pages and snapshots add up."""
        self._pages.check()
        if self._snapshots:
            self._snapshots.check()

"""What is kept of prefixes that requests share: pages and, of a model with states, snapshots of these.

A snapshot is taken where a chunk ends at the end of a page: a prompt is cut into chunks so that its last full
page is one of these, and of an answer the latest full page is. So a chat's next turn computes
what is new in it, and what follows the last snapshot.

Pages and snapshots that were evicted may be in host memory: a prefix goes on there where it ends on the
device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from neuron.engine.host_pages import HostPages, Pairs
from neuron.engine.page_allocator import PageAllocator, PageHash
from neuron.engine.prefix_index import PrefixIndex
from neuron.engine.request import EngineRequest
from neuron.engine.snapshots import Snapshots
from neuron.step import CacheShape, Chunk


class Prefix(NamedTuple):
    """What a request shares: cached pages, those in host memory that follow, and a snapshot to begin with."""

    pages: tuple[int, ...] = ()
    away: tuple[PageHash, ...] = ()
    snapshot: int | None = None


class PrefixCache:
    """Finds the prefixes of new requests, and learns those of running ones."""

    def __init__(self, shape: CacheShape, *, has_states: bool) -> None:
        self._host = HostPages(shape.num_host_pages)
        self.pages = self._pages = PageAllocator(shape.num_pages, self._host.put)
        self._index = PrefixIndex(self._can_begin, shape.page_size)
        self._page_size = shape.page_size
        self._snapshots = Snapshots(shape.num_snapshots, shape.num_host_snapshots) if has_states else None

    def find(self, request: EngineRequest) -> Prefix:
        """Return what a request can share. Its pages are not taken yet."""
        if request.is_scoring:
            return Prefix()
        # The last token always runs: the cache does not hold its logits.
        hashes = request.page_hashes((len(request.tokens) - 1) // self._page_size, self._page_size)
        pages = self._pages.match(hashes)
        on_device = len(pages)
        count, row = on_device + self._host.match(hashes[on_device:]), None
        if self._snapshots is not None:
            count, row = self._snapshots.find(hashes[:count])
        return Prefix(pages[:count], tuple(hashes[on_device:count]), row)

    def num_pages(self, request: EngineRequest) -> int:
        """Return how many pages the tokens of a request take."""
        return -(-len(request.tokens) // self._page_size)

    def fits(self, request: EngineRequest, *, spare: int) -> bool:
        """Return whether there are pages for all tokens of a request, and `spare` more."""
        shared = self.find(request).pages
        needed = self.num_pages(request) - len(shared)
        return self._pages.can_allocate(needed + self._pages.num_unowned(shared) + spare)

    def allocate(self, request: EngineRequest) -> None:
        """Give a request the pages that it fits in: those of its prefix that are cached, and new ones."""
        prefix = self.find(request)
        shared, request.snapshot = prefix.pages, prefix.snapshot
        self._host.hold(prefix.away)
        if self._snapshots and request.snapshot is not None:
            self._snapshots.begin_with(request.snapshot)
        self._pages.share(shared)
        request.pages = [*shared, *self._pages.allocate(self.num_pages(request) - len(shared))]
        request.num_computed = self._bring_back(prefix, request.pages) * self._page_size
        if request.num_cached is None:
            request.num_cached = request.num_computed

    def _bring_back(self, prefix: Prefix, pages: Sequence[int]) -> int:
        """Let the part of a prefix that is in host memory return to the next of a request's `pages`.

        Returns how many of its first pages then hold the prefix.
        """
        start, count = len(prefix.pages), len(prefix.away)
        for digest, page in zip(prefix.away, pages[start : start + count], strict=True):
            self._host.take(digest, page)
        self._host.hold(())
        return start + count

    def moves(self) -> tuple[Pairs, Pairs, Pairs]:
        """Return what the next step copies from pages to host memory, and back, and from snapshots there."""
        return *self._host.moves(), self._snapshots.leaving() if self._snapshots else ()

    def applied(self) -> None:
        """Note that the step has run: what has returned is shared again."""
        if self._snapshots:
            self._snapshots.applied()
        for page, digest in self._host.applied():
            self._pages.register(page, digest)

    def chunks(self, request: EngineRequest, count: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of the chunks by which to run at most `count` more tokens of a prompt.

        The first ends where a snapshot is taken; one that ends the prompt may follow it.
        """
        start, last = request.num_computed, len(request.tokens)
        end = start + count
        middle = min(end, last - 1) // self._page_size * self._page_size
        if self._snapshots is None or middle <= start:
            yield start, end
            return
        yield start, middle
        if end == last:
            yield middle, end

    def snapshot(self, end: int) -> int | None:
        """Return the row for a snapshot after a chunk that ends at `end`; None where none is taken."""
        if self._snapshots is None or end % self._page_size:
            return None
        return self._snapshots.take()

    def add(self, request: EngineRequest, end: int, chunk: Chunk) -> None:
        """Share the pages that became full by a request's chunk up to `end`, and the snapshot taken there,
        unless drafts after that have spoiled it."""
        size, start, snapshot = self._page_size, request.num_computed, chunk.snapshot
        if end < chunk.end:
            self.give_up([chunk])
            snapshot = None
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
        """Take back the snapshots of chunks that have not run, and what was leaving or returning then."""
        self._host.failed()
        if self._snapshots:
            self._snapshots.failed()
        for chunk in chunks:
            if self._snapshots and chunk.snapshot is not None:
                self._snapshots.release(chunk.snapshot)

    def clear(self) -> None:
        """Drop what no running request has."""
        self._pages.clear_cached()
        self._host.clear()
        if self._snapshots:
            self._snapshots.clear()

    def resident(self) -> list[int]:
        """Return the digests of prefixes that are cached, sorted."""
        return self._index.resident()

    def _can_begin(self, digest: PageHash) -> bool:
        """Return whether a request that shares this page can begin after it."""
        has_states = self._snapshots is None or self._snapshots.contains(digest)
        return has_states and (self._pages.contains(digest) or digest in self._host)

    def check(self) -> None:
        """Raise AssertionError unless pages and snapshots add up."""
        self._pages.check()
        self._host.check()
        if self._snapshots:
            self._snapshots.check()

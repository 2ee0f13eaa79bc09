"""Which prefixes of prompts the cache holds, by the digests that gateways know them by.

A gateway sees bytes, the cache holds tokens. So each request brings marks: the digest of a prefix of its
body, and about how many tokens of the prompt that is (`wire.prefix_marks`). A mark is resident while the page
at its end is. The digests that are published are hints for routing and prove nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from neuron.engine.page_allocator import PageAllocator, PageHash

MAX_PREFIXES = 512


class PrefixIndex:
    """Digests of prefixes with the page at their end, the latest last."""

    def __init__(self, pages: PageAllocator, page_size: int) -> None:
        self._pages = pages
        self._page_size = page_size
        self._ends: OrderedDict[int, PageHash] = OrderedDict()

    def add(self, marks: Sequence[tuple[int, int]], page_hashes: Sequence[PageHash]) -> None:
        """Record a prompt that has been computed: its marks (digest, tokens) and the hashes of its pages."""
        for digest, tokens in marks:
            count = min(tokens // self._page_size, len(page_hashes))
            if count:
                self._ends[digest] = page_hashes[count - 1]
                self._ends.move_to_end(digest)
        while len(self._ends) > MAX_PREFIXES:
            self._ends.popitem(last=False)

    def resident(self) -> list[int]:
        """Return the digests whose pages are still cached, sorted."""
        gone = [digest for digest, page_hash in self._ends.items() if not self._pages.contains(page_hash)]
        for digest in gone:
            del self._ends[digest]
        return sorted(self._ends)

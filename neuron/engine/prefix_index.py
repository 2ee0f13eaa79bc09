"""Which beginnings of prompts the cache holds, under the names that gateways know them by.

A gateway sees bytes, the cache holds tokens. Each request therefore brings marks: the digest of a beginning
of its body, and about how many tokens of the prompt that is (`wire.prefix_marks`). A mark is resident as long
as the page at that place is; what is published is a hint for routing and proves nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from neuron.engine.page_allocator import PageAllocator, PageHash

MAX_PREFIXES = 512


class PrefixIndex:
    """Digests with the page that ends them, the latest last."""

    def __init__(self, pages: PageAllocator, page_size: int) -> None:
        self._pages = pages
        self._page_size = page_size
        self._ends: OrderedDict[int, PageHash] = OrderedDict()

    def add(self, marks: Sequence[tuple[int, int]], names: Sequence[PageHash]) -> None:
        """A prompt with these marks (digest, tokens) was computed into pages of these names."""
        for digest, tokens in marks:
            count = min(tokens // self._page_size, len(names))
            if count:
                self._ends[digest] = names[count - 1]
                self._ends.move_to_end(digest)
        while len(self._ends) > MAX_PREFIXES:
            self._ends.popitem(last=False)

    def resident(self) -> list[int]:
        """The digests whose pages are still there, by number."""
        gone = [digest for digest, name in self._ends.items() if not self._pages.contains(name)]
        for digest in gone:
            del self._ends[digest]
        return sorted(self._ends)

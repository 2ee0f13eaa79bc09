"""Which prefixes of prompts the cache holds, by the digests that gateways know them by.

A gateway sees bytes, the cache holds tokens. So each request brings marks: the digest of a prefix of its
body, and about how many tokens of the prompt that is (`wire.prefix_marks`). A mark is resident while requests
can begin after a page near its end. The digests that are published are hints for routing and prove nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import chain

from neuron.engine.page_allocator import PageHash

MAX_PREFIXES = 512


class PrefixIndex:
    """Digests of prefixes with the page where a prompt that shares them would begin, the latest last.

    `can_begin` says whether the cache has what it takes to begin after a page. Where it has not at a prefix's
    end, the prefix counts with the page before that or, if there is none, after it: a chat's next turn shares
    the whole prompt.
    """

    def __init__(self, can_begin: Callable[[PageHash], bool], page_size: int) -> None:
        self._can_begin = can_begin
        self._page_size = page_size
        self._ends: OrderedDict[int, PageHash] = OrderedDict()

    def add(self, marks: Sequence[tuple[int, int]], page_hashes: Sequence[PageHash]) -> None:
        """Record a prompt that has been computed: its marks (digest, tokens) and the hashes of its pages."""
        for digest, tokens in marks:
            count = min(tokens // self._page_size, len(page_hashes))
            nearest = chain(reversed(page_hashes[:count]), page_hashes[count:])
            if count and (end := next(filter(self._can_begin, nearest), None)):
                self._ends[digest] = end
                self._ends.move_to_end(digest)
        while len(self._ends) > MAX_PREFIXES:
            self._ends.popitem(last=False)

    def resident(self) -> list[int]:
        """Return the digests of prefixes that are still cached, sorted."""
        gone = [digest for digest, end in self._ends.items() if not self._can_begin(end)]
        for digest in gone:
            del self._ends[digest]
        return sorted(self._ends)

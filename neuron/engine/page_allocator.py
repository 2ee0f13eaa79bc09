"""Who owns which page of the KV cache.

A page holds the keys and values of `page_size` consecutive tokens of one sequence. A *full* page is named by
a hash of its tokens and of all tokens before it, so two requests with the same beginning share it. Each page
is in exactly one of three places:

    free    nobody's, content worthless        -> `_free`, a stack: the page used last is used next
    owned   by `_owners[page]` requests        -> neither
    cached  nobody's, content named by a hash  -> `_cached`, least recently used first; given away when
                                                  `_free` is empty

Knows numbers only: the tensors are the device's, the policy is the scheduler's.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

PageHash = bytes

ROOT: PageHash = b""


def page_hash(parent: PageHash, tokens: Sequence[int], shown: bytes = b"") -> PageHash:
    """Name of the page that holds `tokens` after the page `parent`; nobody can make two pages of one name.
    `shown` tells what its placeholders stand for."""
    return blake2b(array("q", tokens).tobytes() + shown, digest_size=16, key=parent).digest()


class PageAllocator:
    """Hands out pages 0..num_pages-1, shares the full ones by content, forgets the least recently used."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._owners = [0] * num_pages
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[PageHash, int] = {}
        self._hash_of: dict[int, PageHash] = {}

    @property
    def num_available(self) -> int:
        """Pages that `allocate` could hand out now: free and cached ones."""
        return len(self._free) + len(self._cached)

    def match(self, hashes: Sequence[PageHash]) -> tuple[int, ...]:
        """The pages of the longest resident prefix of `hashes`. Changes nothing: follow with `share`."""
        pages: list[int] = []
        for name in hashes:
            page = self._page_of.get(name)
            if page is None:
                break
            pages.append(page)
        return tuple(pages)

    def contains(self, name: PageHash) -> bool:
        return name in self._page_of

    def num_unowned(self, pages: Sequence[int]) -> int:
        """How many of `pages` sharing would take from the available ones."""
        return sum(1 for page in pages if not self._owners[page])

    def share(self, pages: Sequence[int]) -> None:
        """One more owner for each of `pages`, which `match` just returned."""
        for page in pages:
            self._owners[page] += 1
            self._cached.pop(page, None)

    def can_allocate(self, count: int) -> bool:
        return count <= self.num_available

    def allocate(self, count: int) -> list[int]:
        """`count` pages with one owner and worthless content; callers ask `can_allocate` first."""
        assert self.can_allocate(count)
        pages = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for page in pages:
            self._owners[page] = 1
        return pages

    def register(self, page: int, page_name: PageHash) -> None:
        """Offer an owned page, now full and computed, to others. The first page of a name keeps it."""
        if page_name not in self._page_of and page not in self._hash_of:
            self._page_of[page_name] = page
            self._hash_of[page] = page_name

    def release(self, pages: Sequence[int]) -> None:
        """One owner less for each of `pages`; the last are forgotten first: a prefix outlives its end."""
        for page in reversed(pages):
            assert self._owners[page] > 0
            self._owners[page] -= 1
            if self._owners[page]:
                continue
            if page in self._hash_of:
                self._cached[page] = None
            else:
                self._free.append(page)

    def clear_cached(self) -> None:
        """Free every cached page."""
        while self._cached:
            self._free.append(self._evict())

    def _evict(self) -> int:
        page, _ = self._cached.popitem(last=False)
        del self._page_of[self._hash_of.pop(page)]
        return page

    def check(self) -> None:
        """Raise AssertionError unless every page is in exactly one place and the two indices agree."""
        owned = {page for page, owners in enumerate(self._owners) if owners}
        free = set(self._free)
        assert len(free) == len(self._free)
        assert not owned & free
        assert not owned & self._cached.keys()
        assert not free & self._cached.keys()
        assert len(owned) + len(free) + len(self._cached) == self.num_pages
        assert {page: name for name, page in self._page_of.items()} == self._hash_of
        assert self._cached.keys() <= self._hash_of.keys()
        assert not free & self._hash_of.keys()

"""The pages of the KV cache: who owns which, and which prefixes they hold.

A page holds the keys and values of `page_size` consecutive tokens of one sequence. A *full* page is
registered under a hash of its tokens and of all tokens before it, so requests with the same prefix share it:
this is the prefix cache. Each page is in exactly one of three states:

    free    no owner, content worthless          in `_free`, a stack: the page used last is used next
    owned   by `_owners[page]` requests          in neither
    cached  no owner, registered under a hash    in `_cached`, least recently used first; evicted when
                                                 `_free` is empty, to host memory if there is some

Knows numbers only: the tensors are the device's, the policy is the scheduler's.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

PageHash = bytes

ROOT: PageHash = b""  # the parent of a sequence's first page


def page_hash(parent: PageHash, tokens: Sequence[int], images: bytes = b"") -> PageHash:
    """Return the hash of the page that holds `tokens` after the page `parent`.

    `images` identifies what placeholders among the tokens stand for. Collisions cannot be forged.
    """
    return blake2b(array("q", tokens).tobytes() + images, digest_size=16, key=parent).digest()


class PageAllocator:
    """Allocates pages 0..num_pages-1, shares full ones by content, evicts the least recently used."""

    def __init__(
        self, num_pages: int, evicted: Callable[[int, PageHash], None] = lambda page, digest: None
    ) -> None:
        self._evicted = evicted  # is told which page is about to be written to, and what it holds
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._owners = [0] * num_pages
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[PageHash, int] = {}
        self._hash_of: dict[int, PageHash] = {}

    @property
    def num_available(self) -> int:
        """Pages that `allocate` could return now: free and cached ones."""
        return len(self._free) + len(self._cached)

    def match(self, hashes: Sequence[PageHash]) -> tuple[int, ...]:
        """Return the pages of the longest cached prefix of `hashes`. Changes nothing: `share` takes them."""
        pages: list[int] = []
        for digest in hashes:
            page = self._page_of.get(digest)
            if page is None:
                break
            pages.append(page)
        return tuple(pages)

    def contains(self, digest: PageHash) -> bool:
        return digest in self._page_of

    def num_unowned(self, pages: Sequence[int]) -> int:
        """Return how many of `pages` would leave the available ones if they were shared."""
        return sum(1 for page in pages if not self._owners[page])

    def share(self, pages: Sequence[int]) -> None:
        """Add an owner to each of `pages`, which `match` has just returned."""
        for page in pages:
            self._owners[page] += 1
            self._cached.pop(page, None)

    def can_allocate(self, count: int) -> bool:
        return count <= self.num_available

    def allocate(self, count: int) -> list[int]:
        """Return `count` pages with one owner and worthless content. Callers ask `can_allocate` first."""
        assert self.can_allocate(count)
        pages = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for page in pages:
            self._owners[page] = 1
        return pages

    def register(self, page: int, digest: PageHash) -> None:
        """Let others share an owned page, now full and computed. The first page with a hash keeps it."""
        if digest not in self._page_of and page not in self._hash_of:
            self._page_of[digest] = page
            self._hash_of[page] = digest

    def release(self, pages: Sequence[int]) -> None:
        """Take an owner from each of `pages`. The last of them are evicted first, so prefixes live longer."""
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
            self._free.append(self._forget_oldest()[0])

    def _evict(self) -> int:
        page, digest = self._forget_oldest()
        self._evicted(page, digest)
        return page

    def _forget_oldest(self) -> tuple[int, PageHash]:
        page, _ = self._cached.popitem(last=False)
        digest = self._hash_of.pop(page)
        del self._page_of[digest]
        return page, digest

    def check(self) -> None:
        """Raise AssertionError unless every page is in exactly one state and the two indices agree."""
        owned = {page for page, owners in enumerate(self._owners) if owners}
        free = set(self._free)
        assert len(free) == len(self._free)
        assert not owned & free
        assert not owned & self._cached.keys()
        assert not free & self._cached.keys()
        assert len(owned) + len(free) + len(self._cached) == self.num_pages
        assert {page: digest for digest, page in self._page_of.items()} == self._hash_of
        assert self._cached.keys() <= self._hash_of.keys()
        assert not free & self._hash_of.keys()

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from neuron.engine.page_allocator import ROOT, PageAllocator, page_hash

NUM_PAGES = 6


def test_a_released_page_is_found_by_its_hash():
    pages = PageAllocator(4)
    first, second = page_hash(ROOT, [1, 2]), page_hash(page_hash(ROOT, [1, 2]), [3, 4])
    owned = pages.allocate(2)
    pages.register(owned[0], first)
    pages.register(owned[1], second)
    pages.release(owned)
    assert pages.num_available == 4
    assert pages.match([first, second, page_hash(second, [5, 6])]) == tuple(owned)


def test_the_end_of_a_prefix_is_evicted_before_its_beginning():
    pages = PageAllocator(3)
    names = [b"a", b"b", b"c"]
    owned = pages.allocate(3)
    for page, name in zip(owned, names, strict=True):
        pages.register(page, name)
    pages.release(owned)
    pages.allocate(1)
    assert pages.match(names) == tuple(owned[:2])


def test_equal_tokens_after_another_prefix_have_another_hash():
    assert page_hash(page_hash(ROOT, [1]), [2]) != page_hash(page_hash(ROOT, [3]), [2])
    assert page_hash(ROOT, [1, 2]) != page_hash(ROOT, [2, 1])


class Pages(RuleBasedStateMachine):
    """Requests that hold pages. `held` is the model: the pages of each request, with hash if registered."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = PageAllocator(NUM_PAGES)
        self.held: list[list[tuple[int, bytes | None]]] = []

    @rule(names=st.lists(st.binary(min_size=1, max_size=1), max_size=4, unique=True), fresh=st.integers(0, 3))
    def begin(self, names: list[bytes], fresh: int) -> None:
        shared = self.pages.match(names)
        if not self.pages.can_allocate(fresh + self.pages.num_unowned(shared)):
            return
        self.pages.share(shared)
        new = self.pages.allocate(fresh)
        others = {page for held in self.held for page, _ in held}
        assert not others & set(new)
        assert len(set(new)) == fresh
        self.held.append([*zip(shared, names, strict=False), *((page, None) for page in new)])

    @rule(data=st.data(), name=st.binary(min_size=1, max_size=1))
    def fill(self, data: st.DataObject, name: bytes) -> None:
        unnamed = [
            (h, i) for h, held in enumerate(self.held) for i, (_, known) in enumerate(held) if not known
        ]
        if unnamed:
            h, i = data.draw(st.sampled_from(unnamed))
            page, _ = self.held[h][i]
            self.pages.register(page, name)
            self.held[h][i] = (page, name)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.held:
            held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            self.pages.release([page for page, _ in held])

    @rule()
    def clear_cached(self) -> None:
        self.pages.clear_cached()

    @invariant()
    def adds_up(self) -> None:
        self.pages.check()
        owned = {page for held in self.held for page, _ in held}
        assert self.pages.num_available == NUM_PAGES - len(owned)

    def teardown(self) -> None:
        for held in self.held:
            self.pages.release([page for page, _ in held])
        self.pages.check()
        assert self.pages.num_available == NUM_PAGES


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

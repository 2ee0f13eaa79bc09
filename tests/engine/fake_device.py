"""A device without a model: pages hold token ids, and the next token is a function of the text so far.

It reads through the page table only, so a wrong page, a page shared too early or a table out of step with the
engine gives another text than `continuation` does.
"""

from __future__ import annotations

from hashlib import blake2b

from neuron.step import CacheShape, StepPlan, StepResult

VOCAB = 50


def next_token(text: list[int]) -> int:
    return blake2b(bytes(text), digest_size=2).digest()[0] % VOCAB


def continuation(prompt: list[int], count: int, stop_ids: frozenset[int] = frozenset()) -> list[int]:
    """The answer that a request must get: up to `count` tokens, ended before a stop id."""
    text = list(prompt)
    while len(text) < len(prompt) + count and (token := next_token(text)) not in stop_ids:
        text.append(token)
    return text[len(prompt) :]


class FakeDevice:
    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        self.pages: list[list[int]] = [[-1] * shape.page_size for _ in range(shape.num_pages)]
        self.table: list[list[int]] = [[] for _ in range(shape.num_slots)]
        # The tokens that each slot's state, and after these each snapshot's, has seen.
        self.states: list[list[int]] = [[] for _ in range(shape.num_slots + shape.num_snapshots)]

    def run(self, plan: StepPlan) -> StepResult:
        assert plan.chunks
        assert len({chunk.slot for chunk in plan.chunks}) == len(plan.chunks)
        for joined in plan.joined:
            self.table[joined.slot] = list(joined.pages)
            if joined.snapshot is not None:
                self.states[joined.slot] = list(self.states[self.shape.num_slots + joined.snapshot])
        for chunk in plan.chunks:
            if not chunk.start:
                self.states[chunk.slot] = []
            pages = self.table[chunk.slot]
            pages += chunk.new_pages
            assert len(pages) <= self.shape.pages_per_slot
            for position, token in enumerate(chunk.tokens, chunk.start):
                self.pages[pages[position // self.shape.page_size]][position % self.shape.page_size] = token
            if self.shape.num_snapshots:
                assert len(self.states[chunk.slot]) == chunk.start
            self.states[chunk.slot] += chunk.tokens
        for chunk in plan.chunks:
            if chunk.snapshot is not None:
                self.states[self.shape.num_slots + chunk.snapshot] = list(self.states[chunk.slot])
        return StepResult(tuple(self._draw(c.slot, c.end) if c.draw else None for c in plan.chunks))

    def _draw(self, slot: int, end: int) -> int:
        size, pages = self.shape.page_size, self.table[slot]
        text = [self.pages[pages[p // size]][p % size] for p in range(end)]
        if self.shape.num_snapshots:
            assert text == self.states[slot]
        return next_token(text)

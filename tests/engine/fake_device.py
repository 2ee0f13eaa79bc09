"""A device without a model: pages hold token ids, and the next token is a function of the text so far.

It reads through the page table only, so a wrong page, a page shared too early or a table out of step with the
engine gives another text than `continuation` does.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import pairwise

from neuron.step import CacheShape, Chunk, Encoding, EncodingResult, StepPlan, StepResult

VOCAB = 50


def next_token(text: list[int]) -> int:
    """Mostly the text repeats itself, so that some drafts are right and some are not."""
    token, chance = blake2b(bytes(text), digest_size=2).digest()
    return text[-4] if chance % 8 and len(text) > 3 else token % VOCAB


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
        self.rows: list[list[int]] = [[] for _ in range(shape.num_host_pages)]
        num_states = shape.num_slots + shape.num_snapshots + shape.num_host_snapshots
        self.states: list[list[int]] = [[] for _ in range(num_states)]
        self.ready: list[set[int]] = [set() for _ in range(shape.num_slots)]  # where encoded images start
        self.begun: tuple[bytes, int] | None = None  # of the image that is encoded, and turns that it takes
        self.held: list[list[int]] = [[] for _ in range(shape.num_slots)]  # before each slot's drafts

    def run(self, plan: StepPlan) -> StepResult:
        if plan.chunks:
            self._check_slots(plan)
        for page, row in plan.leaving:
            self.rows[row] = list(self.pages[page])
        for row, page in plan.returning:
            self.pages[page] = list(self.rows[row])
        for snapshot, row in plan.leaving_states:
            assert snapshot < self.shape.num_snapshots <= row
            self.states[self.shape.num_slots + row] = list(self.states[self.shape.num_slots + snapshot])
        for joined in plan.joined:
            self.table[joined.slot] = list(joined.pages)
            self.ready[joined.slot] = set()
            if joined.snapshot is not None:
                self.states[joined.slot] = list(self.states[self.shape.num_slots + joined.snapshot])
        encoded = self._encode(plan.encoding)
        for chunk in plan.chunks:
            assert {image.start for image in chunk.images} <= self.ready[chunk.slot]
            self._run(chunk)
        drawn = tuple(self._drawn(chunk) if chunk.draw else () for chunk in plan.chunks)
        guesses = {
            index: self._guesses(chunk, drawn[index])
            for index, chunk in enumerate(plan.chunks)
            if chunk.num_guesses
        }
        return StepResult(drawn, encoded=encoded, guesses=guesses)

    def _guesses(self, chunk: Chunk, drawn: tuple[int, ...]) -> tuple[int, ...]:
        """What a draft model says, which is wrong now and then, and needs pages for all but the last."""
        pages = self.table[chunk.slot]
        assert chunk.end + chunk.num_guesses <= len(pages) * self.shape.page_size
        first = chunk.end - len(chunk.drafts)
        read = [pages[p // self.shape.page_size] for p in range(first)]
        text = [self.pages[page][p % self.shape.page_size] for p, page in enumerate(read)]
        text += drawn
        for _ in range(chunk.num_guesses):
            text.append(next_token(text) if len(text) % 5 else 0)
        return tuple(text[-chunk.num_guesses :])

    def _run(self, chunk: Chunk) -> None:
        if not chunk.start:
            self.states[chunk.slot] = []
        pages = self.table[chunk.slot]
        pages += chunk.new_pages
        assert len(pages) <= self.shape.pages_per_slot
        for position, token in enumerate(chunk.tokens, chunk.start):
            self.pages[pages[position // self.shape.page_size]][position % self.shape.page_size] = token
        if chunk.rewinds:
            self.states[chunk.slot] = list(self.held[chunk.slot])
        if chunk.checks:
            self.held[chunk.slot] = list(self.states[chunk.slot])
        if self.shape.num_snapshots:
            assert len(self.states[chunk.slot]) == chunk.start
        self.states[chunk.slot] += chunk.tokens
        if chunk.snapshot is not None:
            assert chunk.snapshot < self.shape.num_snapshots
            self.states[self.shape.num_slots + chunk.snapshot] = list(self.states[chunk.slot])

    def _encode(self, encoding: Encoding | None) -> EncodingResult | None:
        """Encode for a turn: an image takes some, by its digest, and fails in the last one if that is 0."""
        if encoding is None:
            self.begun = None
            return None
        for count, image in enumerate(encoding.images):
            if image.start in self.ready[encoding.slot]:
                continue
            if self.begun is None or self.begun[0] != image.digest:
                self.begun = image.digest, image.digest[0]
            digest, turns = self.begun
            if turns:
                self.begun = digest, turns - 1
                return EncodingResult(count, encoding.seconds)
            self.begun = None
            if not image.digest[0]:
                return EncodingResult(count, encoding.seconds, "no image")
            self.ready[encoding.slot].add(image.start)
        return EncodingResult(len(encoding.images), encoding.seconds)

    def _drawn(self, chunk: Chunk) -> tuple[int, ...]:
        """The drafts that are right, and the token after them."""
        first = chunk.end - len(chunk.drafts)
        drawn = [self._draw(chunk.slot, first, chunk.end)]
        for end, draft in enumerate(chunk.drafts, first + 1):
            if draft != drawn[-1]:
                break
            drawn.append(self._draw(chunk.slot, end, chunk.end))
        return tuple(drawn)

    def _check_slots(self, plan: StepPlan) -> None:
        """Each slot runs once, or twice where the first time ends with a snapshot or might have."""
        last = {chunk.slot: chunk for chunk in plan.chunks}
        for chunk, following in pairwise([*plan.chunks, plan.chunks[0]]):
            if last[chunk.slot] is not chunk:
                assert last[chunk.slot] is following
                assert following.start == chunk.end
                assert not chunk.draw
                assert self.shape.num_snapshots
                assert not chunk.end % self.shape.page_size

    def _draw(self, slot: int, end: int, computed: int) -> int:
        size, pages = self.shape.page_size, self.table[slot]
        text = [self.pages[pages[p // size]][p % size] for p in range(computed)]
        if self.shape.num_snapshots:
            assert text == self.states[slot]
        return next_token(text[:end])

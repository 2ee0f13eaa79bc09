"""A small model beside a larger one, which guesses how that one's answers go on.

Its keys and values lie in pages of the same numbers as the large model's and are of the same tokens, so one
page table serves both, and a prefix, a preemption or a rejected guess needs nothing new here. It reads a text
after the large model has, and only as far as it needs to: `_DraftedSlot.num_read` says up to where.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

from neuron.device.guessing import GuessingRunner
from neuron.device.model_runner import ModelRunner
from neuron.pipe import Sampling
from neuron.step import Chunk, Draw, Joined, StepPlan, StepResult

_MOST_LATE = 64  # tokens of a slot that are read in one step beside those that the large model reads
_FEW = 4  # tokens
_GREEDY = Draw(0.0)


@dataclass(slots=True)
class _DraftedSlot:
    """What is known of a slot's text."""

    tokens: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    num_read: int = 0  # tokens whose keys and values are in the pages
    guessed: list[int] = field(default_factory=list)  # that were read after these, and may be right
    has_begun: bool = False


class DraftedRunner(GuessingRunner):
    """Runs a model's plans like its own runner, and then lets a draft model guess.

    `draft` is the draft model's runner, with the `table` of the other. Guesses stay below `vocab_size`, and
    tokens that the draft model, of `num_embeddings`, does not know are read as another. It reads texts up to
    its own `context`.
    """

    drafter = "the draft model"

    def __init__(
        self,
        runner: ModelRunner,
        draft: ModelRunner,
        *,
        vocab_size: int,
        num_embeddings: int,
        context: int,
    ) -> None:
        super().__init__(runner)
        self._draft = draft
        self._vocab_size = vocab_size
        self._num_embeddings = num_embeddings
        self._context = context
        self._slots = [_DraftedSlot() for _ in range(self.shape.num_slots)]
        self._is_read = [False] * self.shape.num_pages  # whether all of a page's text has been read
        greedy = (Joined(slot, Sampling(), (), (), ()) for slot in range(self.shape.num_slots))
        draft.run(StepPlan((), tuple(greedy)))

    @property
    def draft_bytes(self) -> int:
        """Bytes of what the draft model keeps of sequences on the device."""
        return self._draft.num_bytes

    def _guess(self, plan: StepPlan, result: StepResult) -> dict[int, tuple[int, ...]]:
        self._follow(plan, result)
        last = {chunk.slot: index for index, chunk in enumerate(plan.chunks)}
        reading = [part for index in last.values() for part in self._next(plan.chunks[index])]
        guesses: dict[int, tuple[int, ...]] = {}
        while reading:
            found = self._draft.run(StepPlan(tuple(reading))).tokens
            ends = {part.slot: (part.end, tokens) for part, tokens in zip(reading, found, strict=True)}
            reading = []
            for slot, (end, tokens) in ends.items():
                index = last[slot]
                if not tokens or tokens[0] >= self._vocab_size:
                    continue
                guesses[index] = (*guesses.get(index, ()), *tokens)
                if len(guesses[index]) < plan.chunks[index].num_guesses:
                    reading.append(Chunk(slot, tokens, end, draw=_GREEDY))
                    self._slots[slot].guessed += tokens
        return guesses

    def _follow(self, plan: StepPlan, result: StepResult) -> None:
        """Take in whose the slots and pages are, and what has been sampled."""
        for _, page in plan.returning:  # host memory has no copies of ours
            self._is_read[page] = False
        for joined in plan.joined:
            self._slots[joined.slot] = _DraftedSlot([*joined.prompt, *joined.output], list(joined.pages))
        for chunk, sampled in zip(plan.chunks, result.tokens, strict=True):
            slot = self._slots[chunk.slot]
            if not slot.has_begun:
                self._begin(slot, chunk.start)
            for page in chunk.new_pages:
                self._is_read[page] = False
            slot.pages += chunk.new_pages
            slot.tokens += sampled
            pairs = zip(slot.guessed, slot.tokens[slot.num_read :], strict=False)
            right = takewhile(lambda pair: pair[0] == pair[1], pairs)
            self._advance(slot, slot.num_read + len(list(right)))
            slot.guessed = []

    def _begin(self, slot: _DraftedSlot, start: int) -> None:
        """Find how much of the cached prefix, which ends at `start`, has been read here."""
        slot.has_begun = True
        cached = start // self.shape.page_size
        for page in slot.pages[cached:]:
            self._is_read[page] = False
        count = next((at for at, page in enumerate(slot.pages[:cached]) if not self._is_read[page]), cached)
        slot.num_read = count * self.shape.page_size

    def _next(self, chunk: Chunk) -> list[Chunk]:
        """Return what the draft model reads of a slot: of a prompt what the large model has read of it, and
        all of a text that it is to guess of. Few tokens are chunks of their own: a decode step."""
        slot = self._slots[chunk.slot]
        if not chunk.is_followed:
            return []
        known = min(len(slot.tokens), self._context)
        is_wanted = chunk.num_guesses > 0 and len(slot.tokens) + chunk.num_guesses <= self._context
        if chunk.draw and not is_wanted and len(chunk.tokens) == 1 + len(chunk.checks):
            return []
        start = slot.num_read
        end = min(known if is_wanted else min(chunk.end, known), start + max(_MOST_LATE, len(chunk.tokens)))
        if end <= start:
            return []
        tokens = [token if token < self._num_embeddings else 0 for token in slot.tokens[start:end]]
        self._advance(slot, end)
        if is_wanted and end == known and len(tokens) <= _FEW:
            return [Chunk(chunk.slot, (token,), at, draw=_GREEDY) for at, token in enumerate(tokens, start)]
        draw = _GREEDY if is_wanted and end == known else None
        return [Chunk(chunk.slot, tuple(tokens), start, draw=draw)]

    def _advance(self, slot: _DraftedSlot, end: int) -> None:
        """Note that a slot's text has been read up to `end`."""
        size = self.shape.page_size
        for page in slot.pages[slot.num_read // size : end // size]:
            self._is_read[page] = True
        slot.num_read = end

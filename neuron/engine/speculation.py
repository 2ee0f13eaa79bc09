"""When answers of one model are drafted, and how that went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neuron.engine.draft_worth import DraftWorth
from neuron.engine.drafter import Drafter, DraftSource
from neuron.engine.page_allocator import PageAllocator
from neuron.engine.request import Drafts, EngineRequest
from neuron.engine.scheduler_limits import MOST_DRAFT_ROWS, SchedulerLimits
from neuron.step import CacheShape, Chunk, StepPlan, StepResult


class Drafting:
    """Decides how long each draft may be, and counts.

    Of a model with states no draft goes beyond the end of a page, where a snapshot is taken.
    """

    def __init__(
        self, source: DraftSource | None, limits: SchedulerLimits, shape: CacheShape, *, has_states: bool
    ) -> None:
        self._source = source
        self._rows = min(MOST_DRAFT_ROWS, limits.step_tokens)
        self._page_size = shape.page_size
        self._has_states = has_states
        self._worth = DraftWorth()
        self.drafted = 0  # tokens
        self.accepted = 0  # tokens

    def drafter(self) -> Drafter | None:
        """Return what drafts the answer to a new request."""
        if self._source and self._worth.pays:
            return self._source.new_drafter()
        return self._other()

    def _other(self) -> Drafter | None:
        """Return what drafts while it does not pay that the device does."""
        return self._source.new_other() if self._source and self._source.new_other else None

    def drafts(
        self, decoding: Sequence[EngineRequest], pages: PageAllocator, *, spare: int
    ) -> Iterator[tuple[EngineRequest, Drafts | None]]:
        """Yield requests with guesses of their next tokens; there are none when the step is full.

        A request gets pages for its guesses if more than `spare` are left.
        """
        most = 0
        if self._source and decoding:
            most = min(self._source.tokens, self._rows // len(decoding) - 1)
        asks = self._worth.asks(len(decoding))
        for request in decoding:
            if request.drafter and request.drafter.is_on_device and not self._worth.pays:
                request.drafter = self._other()
            if most <= 0:
                yield request, None
                continue
            drafts = request.draft(self._length(request, most))
            drafts = drafts.cut(self._room(request, len(drafts.tokens), pages, spare))
            asked = self._ask(request, len(drafts.tokens), most, pages, spare) if asks else 0
            yield request, drafts._replace(asked=asked)

    def _room(self, request: EngineRequest, count: int, pages: PageAllocator, spare: int) -> int:
        """Return how many of `count` tokens after a request's own have a place in its pages."""
        room = len(request.pages) * self._page_size - len(request.tokens)
        missing = -(-(count - room) // self._page_size)
        if missing > 0:
            if not pages.can_allocate(missing + spare):
                return room
            request.pages += pages.allocate(missing)
        return count

    def _ask(self, request: EngineRequest, drafted: int, most: int, pages: PageAllocator, spare: int) -> int:
        """Return how many tokens the device is to guess after those that this step may come to."""
        left = request.max_tokens - request.num_output - drafted - 2
        if self._has_states:
            left = min(left, -(len(request.tokens) + drafted + 1) % self._page_size)
        count = request.drafter.ask(min(most, left)) if request.drafter and left > 0 else 0
        return max(0, self._room(request, drafted + count, pages, spare) - drafted) if count else 0

    def _length(self, request: EngineRequest, most: int) -> int:
        if request.num_again:
            return 0
        if self._has_states:
            most = min(most, -len(request.tokens) % self._page_size)
        return min(most, request.max_tokens - request.num_output - 1)

    def learn(self, plan: StepPlan, result: StepResult, seconds: float, *, is_mixed: bool) -> None:
        """Take in how long a step took, which tells something unless prompts or images were in it."""
        if is_mixed:
            self._worth.learn_beside_prompts(plan.chunks, result.tokens)
        elif plan.chunks:
            self._worth.learn(plan.chunks, result.tokens, seconds)

    def end_of(self, request: EngineRequest, chunk: Chunk, num_drawn: int) -> int:
        """Return up to where a chunk was right, and learn how many of its drafts were."""
        if not chunk.checks:
            return chunk.end
        drafted, accepted = len(chunk.checks), num_drawn - 1
        self.drafted += drafted
        self.accepted += accepted
        request.num_drafted += drafted
        request.num_accepted += accepted
        if request.drafter:
            request.drafter.learn(drafted, accepted)
        return chunk.end - drafted + accepted

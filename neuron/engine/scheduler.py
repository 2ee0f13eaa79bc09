"""Which tokens run next: continuous batching with chunked prefill over a paged KV cache.

Requests are admitted by priority and, within a priority, fairly among principals (`waiting_queue`). Each step
runs one token of every decoding request. What is left of `step_tokens` goes to prompts in chunks; while
streams run, only as much as keeps their gaps short (`prefill_budget`).

A request gets pages for its whole prompt when it is admitted, and one more whenever its answer outgrows them.
When none is left, the newest running request of the lowest priority is preempted: it gives its pages back and
waits at the head of its class. It resumes with the tokens it has, so its text is the one it would have had.
The oldest request of the highest priority can always go on, because no request may be longer than the cache.

    submit -> waiting -> running -> Finished          cancel, fail, expire and end_all end a request anywhere;
                 ^          |                         every submitted request is ended exactly once
                 +----------+ preempted

The worker calls `plan`, has the device run it, and calls `apply` or `fail`; nothing else may happen between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from neuron.engine.drafter import DraftSource
from neuron.engine.endings import cut_at_ending
from neuron.engine.image_encodings import ImageEncodings
from neuron.engine.prefill_budget import PrefillBudget
from neuron.engine.prefix_cache import PrefixCache
from neuron.engine.request import Drafts, EngineRequest, GrammarMatcher, LoadedAdapter
from neuron.engine.scheduler_limits import LAST_TOKENS, SchedulerLimits
from neuron.engine.speculation import Drafting
from neuron.engine.submit_check import refusal
from neuron.engine.throughput import Throughput
from neuron.engine.waiting_queue import WaitingQueue
from neuron.pipe import Finished, Logprob, ModelStatus, Refused, Scored, Submit, Tokens
from neuron.step import CacheShape, Chunk, Joined, PromptImage, PromptRule, StepPlan, StepResult

Event = Tokens | Scored | Finished | Refused


class Scheduler:
    """The requests of one model. Not thread-safe, and without a clock: callers pass seconds.

    If it `has_states`, its pages alone do not hold all that it keeps of a prefix. A prompt that `prompt_rule`
    makes run as one chunk may take a step beyond `step_tokens`, and so may an image of `whole_images`, whose
    tokens see each other.
    """

    request_type = Submit

    def __init__(  # noqa: PLR0913
        self,
        model: str,
        shape: CacheShape,
        *,
        vocab_size: int,
        limits: SchedulerLimits,
        has_states: bool = False,
        prompt_rule: PromptRule | None = None,
        whole_images: bool = False,
        drafts: DraftSource | None = None,
    ) -> None:
        if shape.num_slots < limits.max_running or shape.num_pages < shape.pages_per_slot:
            raise ValueError("the cache needs a slot per running request and room for one of full length")
        self.model = model
        self.shape = shape
        self.limits = limits
        self._prefixes = PrefixCache(shape, has_states=has_states)
        self.pages = self._prefixes.pages
        self._vocab_size = vocab_size
        self._prompt_rule = prompt_rule
        self._whole_images = whole_images
        self._has_states = has_states
        self._drafting = Drafting(drafts, limits, shape, has_states=has_states)
        self._waiting = WaitingQueue()
        self._running: list[EngineRequest] = []  # oldest first
        self._slots: dict[int, EngineRequest] = {}
        self._free_slots = list(range(shape.num_slots - 1, -1, -1))
        self._prefill_budget = PrefillBudget(limits)
        self._encodings = ImageEncodings(limits)
        self._finished = Throughput()  # requests
        self._now = 0.0  # when this turn began
        self._rejected = 0
        self._timed_out = 0

    # --- requests come and go ---------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting or self._encodings.begun)

    def submit(
        self,
        submit: Submit,
        now: float,
        matcher: GrammarMatcher | None = None,
        images: Sequence[PromptImage] = (),
        adapter: LoadedAdapter | None = None,
    ) -> Refused | None:
        """Queue a request, and return the refusal that this causes, if any.

        It is the request's own, which then leaves no trace, or that of a request which a full queue sheds in
        its favour.
        """
        sees_later = self._prompt_rule is PromptRule.WHOLE or (self._whole_images and bool(submit.images))
        if invalid := refusal(
            submit, context=self.shape.context, vocab_size=self._vocab_size, sees_later=sees_later
        ):
            return invalid
        refused = None
        if len(self._waiting) >= self.limits.max_waiting:
            shed = self._waiting.shed_candidate(submit.principal, submit.priority)
            if shed is None:
                return self._queue_full(submit.id)
            refused = self._queue_full(shed.id)
            self._waiting.remove(shed)
        max_tokens = min(submit.max_tokens, self.shape.context - len(submit.tokens))
        self._waiting.add(
            EngineRequest(
                submit,
                max_tokens=max_tokens,
                now=now,
                matcher=matcher,
                images=images,
                prompt_rule=self._prompt_rule,
                whole_images=self._whole_images,
                drafter=self._drafting.drafter(),
                adapter=adapter,
            )
        )
        return refused

    def cancel(self, request_id: int) -> Finished | None:
        """End a request whose client went away; None when it has ended already."""
        for request in (*self._running, *self._waiting):
            if request.id == request_id:
                return self._finish(request, "cancelled")
        return None

    def expire(self, now: float) -> list[Refused]:
        """Refuse the requests that have waited too long without ever running."""
        self._now = now
        deadline = now - self.limits.max_wait_s
        late = [r for r in self._waiting if not r.has_run and r.submitted_at < deadline]
        self._rejected += len(late)
        self._timed_out += len(late)
        message = f"waited {self.limits.max_wait_s:g} s for {self.model} without getting a turn"
        retry = self._retry_after_s()
        return [self._refuse(r, 503, "queue_timeout", message=message, retry=retry) for r in late]

    def end_all(
        self, code: str, message: str, retry_after_s: int, adapter: int | None = None
    ) -> list[Refused]:
        """Refuse every request, because the model or the device goes away; with `adapter`, those with that
        one."""
        requests = [r for r in (*self._running, *self._waiting) if adapter in {None, r.adapter_number}]
        return [self._refuse(r, 503, code, message=message, retry=retry_after_s) for r in requests]

    def reset_cache(self) -> None:
        """Drop the cached pages of requests that have ended. Running requests keep theirs, still shared."""
        self._prefixes.clear()

    # --- one step ---------------------------------------------------------------------------------------

    @property
    def stream_s(self) -> float:
        """How long its streams wait for a step of it alone; 0 without streams."""
        return self._prefill_budget.bare_s if any(r.is_decoding for r in self._running) else 0.0

    def plan(self, others_s: float = 0.0) -> StepPlan | None:
        """Return the next step, or None when nothing can run. It alternates with steps of other models'
        streams, which take `others_s`."""
        self._allocate_for_decoding()
        self._preempt_for_priority()
        decoding = [request for request in self._running if request.is_decoding]
        drafts = self._drafting.drafts(decoding, self.pages, spare=len(self._running))
        chunks = [self._chunk(r, r.num_computed, len(r.tokens), d) for r, d in drafts]
        whole = self._prefill_budget.tokens(sum(len(chunk.tokens) for chunk in chunks))
        budget = self._encodings.begin(whole)
        last, before = budget // LAST_TOKENS, budget
        num_scorable = self.limits.max_logit_rows - self.limits.max_drawn_rows
        joined: list[Joined] = []
        prompts = self._prompts(joined)
        while budget > 0 and (request := next(prompts, None)) is not None:
            count = request.count_next(budget, last)
            if self._encodings.delays(request, request.num_computed + count):
                continue
            if request.is_scoring:
                count = min(count, num_scorable)
                num_scorable -= count
            for start, end in self._prefixes.chunks(request, count) if count else ():
                chunks.append(self._chunk(request, start, end))
                budget -= end - start
        chunks.sort(key=lambda chunk: self._slots[chunk.slot].adapter_number)  # those of an adapter together
        left = 1 - (before - max(budget, 0)) / max(whole, 1)
        encoding = self._encodings.plan(self.stream_s + others_s, left)
        if not (chunks or encoding or self._encodings.begun):
            return None
        return StepPlan(tuple(chunks), tuple(joined), *self._prefixes.moves(), encoding)

    def apply(self, plan: StepPlan, result: StepResult, seconds: float) -> list[Event]:
        """Take in what `plan` computed in `seconds`; return what the clients must be told."""
        self._prefixes.applied()
        events: list[Event] = []
        prefilled = decoded = 0
        for index, (chunk, tokens) in enumerate(zip(plan.chunks, result.tokens, strict=True)):
            request = self._slots[chunk.slot]
            self._waiting.charge(request, len(tokens if request.is_decoding else chunk.tokens))
            if request.is_decoding:
                decoded += len(tokens)
            else:
                prefilled += len(chunk.tokens)
            if request.max_tokens:
                request.tokens += tokens
            end = self._drafting.end_of(request, chunk, len(tokens))
            request.take(result.guesses.get(index))
            self._prefixes.add(request, end, chunk)
            request.advance(chunk, end, goes_back=self._has_states and end < chunk.end)
            if scores := request.news(chunk.start + 1, result.scores.get(index, ())):
                events.append(Scored(request.id, scores))
            if tokens:
                events += self._told(request, tokens, result.logprobs.get(index, ()))
        if failed := self._encodings.apply(result.encoded):
            events.append(self._refuse(failed[0], 500, "engine_error", message=failed[1], retry=None))
        encoding_s = result.encoded.seconds if result.encoded else 0.0
        self._drafting.learn(plan, result, seconds, is_mixed=bool(prefilled or encoding_s))
        self._prefill_budget.observe(prefilled, decoded, seconds, encoding_s)
        self._finished.add(sum(isinstance(event, Finished) for event in events), seconds)
        return events

    def fail(self, plan: StepPlan, message: str) -> list[Refused]:
        """Refuse the requests that a step, which the device could not run, was to run or to join."""
        self._prefixes.give_up(plan.chunks)
        self._encodings.fail(plan)
        slots = dict.fromkeys([*plan.slots, *(joined.slot for joined in plan.joined)])
        requests = [self._slots[slot] for slot in slots]
        return [self._refuse(r, 500, "engine_error", message=message, retry=None) for r in requests]

    # --- what it reports --------------------------------------------------------------------------------

    def _retry_after_s(self) -> int:
        return self._finished.retry_after_s(len(self._waiting))

    def status(self) -> ModelStatus:
        return ModelStatus(
            model=self.model,
            running=len(self._running),
            waiting=len(self._waiting),
            max_running=self.limits.max_running,
            max_waiting=self.limits.max_waiting,
            kv_pages_free=self.pages.num_available,
            kv_pages_total=self.pages.num_pages,
            tok_s_prefill=round(self._prefill_budget.prefill.per_second, 1),
            tok_s_decode=round(self._prefill_budget.decode.per_second, 1),
            rejected=self._rejected,
            timed_out=self._timed_out,
            prefixes=self._prefixes.resident(),
            drafted=self._drafting.drafted,
            accepted=self._drafting.accepted,
        )

    def adapter_status(self, name: str, adapter: int) -> ModelStatus:
        """Return the status as it is for the requests with an adapter, which is called `name`."""
        all_of = self._running, self._waiting
        running, waiting = (sum(r.adapter_number == adapter for r in requests) for requests in all_of)
        return msgspec.structs.replace(self.status(), model=name, running=running, waiting=waiting)

    def check(self) -> None:
        """Raise AssertionError unless slots, pages and requests add up."""
        self._prefixes.check()
        assert sorted([*self._free_slots, *self._slots]) == list(range(self.shape.num_slots))
        assert list(self._slots.values()) == self._running
        owned = {page for request in self._running for page in request.pages}
        assert self.pages.num_pages - self.pages.num_available == len(owned)
        assert not any(request.pages or request.slot is not None for request in self._waiting)
        for request in self._running:
            assert request.num_computed < len(request.tokens)
            assert len(request.pages) == len(set(request.pages))

    # --- admission --------------------------------------------------------------------------------------

    def _queue_full(self, request_id: int) -> Refused:
        self._rejected += 1
        message = f"{self.model} has {len(self._waiting)} requests waiting, which is its limit"
        return Refused(request_id, 429, "queue_full", message, self._retry_after_s())

    def _prompts(self, joined: list[Joined]) -> Iterator[EngineRequest]:
        """Yield the requests with prompt to run: first running ones, then others as they are admitted."""
        begun = self._encodings.begun
        running = [request for request in self._running if not request.is_decoding]
        yield from sorted(running, key=lambda request: request is not begun)
        while (request := self._waiting.head()) and self._fits(request):
            self._prefixes.allocate(request)
            self._waiting.admit(request)
            joined.append(self._join(request))
            yield request

    def _fits(self, request: EngineRequest) -> bool:
        """Return whether there is a slot, and pages but for one more of each running request."""
        running = len(self._running)
        return running < self.limits.max_running and self._prefixes.fits(request, spare=running)

    def _join(self, request: EngineRequest) -> Joined:
        slot = self._free_slots.pop()
        request.slot = slot
        if not request.has_run:
            request.queue_s = max(0.0, self._now - request.submitted_at)
        request.has_run = True
        request.num_sent_pages = len(request.pages)
        self._running.append(request)
        self._slots[slot] = request
        prompt = request.tokens[: request.num_prompt]
        output = request.tokens[request.num_prompt :]
        pages = tuple(request.pages)
        return Joined(
            *(slot, request.sampling, tuple(prompt), tuple(output), pages),
            snapshot=request.snapshot,
            images=request.images,
            adapter=request.adapter.number if request.adapter else None,
        )

    # --- progress ---------------------------------------------------------------------------------------

    def _allocate_for_decoding(self) -> None:
        """Allocate a page for each decoding request that needs one, oldest first, preempting the newest."""
        for request in tuple(self._running):
            if not request.is_decoding or len(request.pages) >= self._prefixes.num_pages(request):
                continue
            while request.slot is not None and not self.pages.can_allocate(1):
                self._preempt(self._preemption_victim())
            if request.slot is not None:
                request.pages += self.pages.allocate(1)

    def _preempt_for_priority(self) -> None:
        """Preempt running requests of lower priority than the head of the queue until it fits."""
        while (request := self._waiting.head()) and self._running:
            victim = self._preemption_victim()
            if victim.priority >= request.priority or self._fits(request):
                return
            self._preempt(victim)

    def _preemption_victim(self) -> EngineRequest:
        """Return the newest running request of the lowest priority."""
        return min(reversed(self._running), key=lambda request: request.priority)

    def _preempt(self, request: EngineRequest) -> None:
        self._release_slot(request)
        request.num_computed = request.num_again = 0
        self._waiting.requeue(request)

    def _chunk(self, request: EngineRequest, start: int, end: int, drafts: Drafts | None = None) -> Chunk:
        last = end + len(drafts.tokens) if drafts else end
        return request.chunk(start, end, drafts, self._prefixes.snapshot(last))

    def _told(
        self, request: EngineRequest, tokens: Sequence[int], logprobs: Sequence[Logprob]
    ) -> list[Event]:
        """Return what a client is told of its newest tokens, up to the one that ends its answer."""
        if not request.max_tokens:
            return [self._finish(request, "length")]
        told, ending = cut_at_ending(request, len(tokens))
        events: list[Event] = []
        if told:
            events.append(Tokens(request.id, list(tokens[:told]), list(logprobs[:told])))
        if ending and ending.failure:
            status, code, message = ending.failure
            events.append(self._refuse(request, status, code, message=message, retry=None))
        elif ending:
            events.append(self._finish(request, ending.reason, stop_id=ending.stop_id))
        return events

    # --- the end ----------------------------------------------------------------------------------------

    def _finish(self, request: EngineRequest, reason: str, *, stop_id: int | None = None) -> Finished:
        self._remove(request)
        prompt, output, cached = request.num_prompt, request.num_output, request.num_cached or 0
        drafts = request.num_drafted, request.num_accepted
        return Finished(request.id, reason, prompt, output, cached, stop_id, request.queue_s, *drafts)

    def _refuse(
        self, request: EngineRequest, status: int, code: str, *, message: str, retry: int | None
    ) -> Refused:
        self._remove(request)
        return Refused(request.id, status, code, message, retry)

    def _remove(self, request: EngineRequest) -> None:
        if request.slot is None:
            self._waiting.remove(request)
        else:
            self._release_slot(request)

    def _release_slot(self, request: EngineRequest) -> None:
        """Take slot and pages from a running request."""
        assert request.slot is not None
        self._running.remove(request)
        del self._slots[request.slot]
        self._free_slots.append(request.slot)
        self.pages.release(request.pages)
        request.leave()

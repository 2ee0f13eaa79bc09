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

import math
from collections.abc import Iterator, Sequence

from neuron.engine.page_allocator import PageAllocator
from neuron.engine.prefill_budget import PrefillBudget
from neuron.engine.prefix_cache import PrefixCache
from neuron.engine.request import EngineRequest, GrammarMatcher
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.engine.throughput import Throughput
from neuron.engine.waiting_queue import WaitingQueue
from neuron.pipe import Finished, Logprob, ModelStatus, Refused, Scored, Submit, Tokens
from neuron.step import CacheShape, Chunk, Joined, PromptImage, PromptRule, StepPlan, StepResult

Event = Tokens | Scored | Finished | Refused

MAX_RETRY_AFTER_S = 600


class Scheduler:
    """The requests of one model. Not thread-safe, and without a clock: callers pass seconds.

    If it `has_states`, its pages alone do not hold all that it keeps of a prefix. A prompt that `prompt_rule`
    makes run as one chunk may take a step beyond `step_tokens`.
    """

    request_type = Submit

    def __init__(
        self,
        model: str,
        shape: CacheShape,
        *,
        vocab_size: int,
        limits: SchedulerLimits,
        has_states: bool = False,
        prompt_rule: PromptRule | None = None,
    ) -> None:
        if shape.num_slots < limits.max_running or shape.num_pages < shape.pages_per_slot:
            raise ValueError("the cache needs a slot per running request and room for one of full length")
        self.model = model
        self.shape = shape
        self.limits = limits
        self.pages = PageAllocator(shape.num_pages)
        self._prefixes = PrefixCache(self.pages, shape, has_states=has_states)
        self._vocab_size = vocab_size
        self._prompt_rule = prompt_rule
        self._waiting = WaitingQueue()
        self._running: list[EngineRequest] = []  # oldest first
        self._slots: dict[int, EngineRequest] = {}
        self._free_slots = list(range(shape.num_slots - 1, -1, -1))
        self._prefill_budget = PrefillBudget(limits)
        self._finished = Throughput()  # requests
        self._rejected = 0
        self._timed_out = 0

    # --- requests come and go ---------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def submit(
        self,
        submit: Submit,
        now: float,
        matcher: GrammarMatcher | None = None,
        images: Sequence[PromptImage] = (),
    ) -> Refused | None:
        """Queue a request, and return the refusal that this causes, if any.

        It is the request's own, which then leaves no trace, or that of a request which a full queue sheds in
        its favour.
        """
        if invalid := self._invalid(submit):
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
        deadline = now - self.limits.max_wait_s
        late = [r for r in self._waiting if not r.has_run and r.submitted_at < deadline]
        self._rejected += len(late)
        self._timed_out += len(late)
        message = f"waited {self.limits.max_wait_s:g} s for {self.model} without getting a turn"
        retry = self.retry_after_s()
        return [self._refuse(r, 503, "queue_timeout", message=message, retry=retry) for r in late]

    def end_all(self, code: str, message: str, retry_after_s: int) -> list[Refused]:
        """Refuse every request, because the model or the device goes away."""
        requests = (*self._running, *self._waiting)
        return [
            self._refuse(request, 503, code, message=message, retry=retry_after_s) for request in requests
        ]

    def reset_cache(self) -> None:
        """Drop the cached pages of requests that have ended. Running requests keep theirs, still shared."""
        self._prefixes.clear()

    # --- one step ---------------------------------------------------------------------------------------

    def plan(self) -> StepPlan | None:
        """Return the next step, or None when nothing can run."""
        self._allocate_for_decoding()
        self._preempt_for_priority()
        decoding = [request for request in self._running if request.is_decoding]
        chunks = [self._chunk(request, 1) for request in decoding]
        budget = self._prefill_budget.tokens(len(decoding))
        num_scorable = self.limits.max_logit_rows - self.limits.max_running
        joined: list[Joined] = []
        prompts = self._prompts(joined)
        while budget > 0 and (request := next(prompts, None)) is not None:
            count = self._prefixes.chunk_size(request, request.chunk_size(budget))
            if request.is_scoring:
                count = min(count, num_scorable)
                num_scorable -= count
            if count:
                chunks.append(self._chunk(request, count))
                budget -= count
        return StepPlan(tuple(chunks), tuple(joined)) if chunks else None

    def apply(self, plan: StepPlan, result: StepResult, seconds: float) -> list[Event]:
        """Take in what `plan` computed in `seconds`; return what the clients must be told."""
        events: list[Event] = []
        prefilled = decoded = 0
        for index, (chunk, token) in enumerate(zip(plan.chunks, result.tokens, strict=True)):
            request = self._slots[chunk.slot]
            self._waiting.charge(request, len(chunk.tokens))
            if request.is_decoding:
                decoded += 1
            else:
                prefilled += len(chunk.tokens)
            self._prefixes.add(request, end := chunk.end, chunk.snapshot)
            request.num_computed = end
            if scores := result.scores.get(index):
                events += self._score(request, chunk.start + 1, scores)
            if token is not None:
                events += self._append(request, token, result.logprobs.get(index))
        self._prefill_budget.observe(prefilled, decoded, seconds)
        self._finished.add(sum(isinstance(event, Finished) for event in events), seconds)
        return events

    def fail(self, plan: StepPlan, message: str) -> list[Refused]:
        """Refuse the requests of a step that the device could not run; the others go on."""
        self._prefixes.give_up(plan.chunks)
        requests = [self._slots[chunk.slot] for chunk in plan.chunks]
        return [self._refuse(r, 500, "engine_error", message=message, retry=None) for r in requests]

    # --- what it reports --------------------------------------------------------------------------------

    def retry_after_s(self) -> int:
        """Return when the requests that wait now will have been served, at the latest ones' throughput."""
        per_second = self._finished.per_second
        seconds = math.ceil((len(self._waiting) + 1) / per_second) if per_second else 1
        return min(max(seconds, 1), MAX_RETRY_AFTER_S)

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
        )

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
        return Refused(request_id, 429, "queue_full", message, self.retry_after_s())

    def _invalid(self, submit: Submit) -> Refused | None:
        length, context = len(submit.tokens), self.shape.context
        if length >= context:
            message = (
                f"This model's maximum context length is {context} tokens. However, your prompt has {length} "
                "tokens, which leaves no room for an answer. Please shorten it."
            )
            return Refused(submit.id, 400, "context_length_exceeded", message)
        if not length or submit.max_tokens < 0:
            message = "a request needs a prompt, and max_tokens that are not negative"
            return Refused(submit.id, 400, "invalid_request", message)
        if submit.score_prompt and self._prompt_rule is PromptRule.WHOLE:
            message = "the tokens of this model's prompts see later ones, so they have no logprobs"
            return Refused(submit.id, 400, "invalid_request", message, field="echo")
        biased = [token for token, _ in submit.sampling.logit_bias]
        for field, ids in (("tokens", submit.tokens), ("stop_ids", submit.stop_ids), ("logit_bias", biased)):
            if ids and not 0 <= min(ids) <= max(ids) < self._vocab_size:
                message = f"the model's token ids end at {self._vocab_size - 1}; {max(ids)} is none of them"
                return Refused(submit.id, 400, "invalid_request", message, field=field)
        return None

    def _prompts(self, joined: list[Joined]) -> Iterator[EngineRequest]:
        """Yield the requests with prompt to run: first running ones, then others as they are admitted."""
        yield from [request for request in self._running if not request.is_decoding]
        while (request := self._waiting.head()) and self._fits(request):
            self._allocate(request)
            self._waiting.admit(request)
            joined.append(self._join(request))
            yield request

    def _fits(self, request: EngineRequest) -> bool:
        """Return whether there is a slot, pages for all its tokens, and one more for each running request."""
        if len(self._running) >= self.limits.max_running:
            return False
        shared, _ = self._prefixes.find(request)
        needed = self._num_pages(request) - len(shared)
        return self.pages.can_allocate(needed + self.pages.num_unowned(shared) + len(self._running))

    def _allocate(self, request: EngineRequest) -> None:
        shared, request.snapshot = self._prefixes.find(request)
        self.pages.share(shared)
        request.pages = [*shared, *self.pages.allocate(self._num_pages(request) - len(shared))]
        request.num_computed = len(shared) * self.shape.page_size
        if request.num_cached is None:
            request.num_cached = request.num_computed

    def _join(self, request: EngineRequest) -> Joined:
        slot = self._free_slots.pop()
        request.slot = slot
        request.has_run = True
        request.num_sent_pages = len(request.pages)
        self._running.append(request)
        self._slots[slot] = request
        prompt = request.tokens[: request.num_prompt]
        output = request.tokens[request.num_prompt :]
        pages = tuple(request.pages)
        return Joined(slot, request.sampling, tuple(prompt), tuple(output), pages, request.snapshot)

    # --- progress ---------------------------------------------------------------------------------------

    def _num_pages(self, request: EngineRequest) -> int:
        return -(-len(request.tokens) // self.shape.page_size)

    def _allocate_for_decoding(self) -> None:
        """Allocate a page for each decoding request that needs one, oldest first, preempting the newest."""
        for request in tuple(self._running):
            if not request.is_decoding or len(request.pages) >= self._num_pages(request):
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
        request.num_computed = 0
        self._waiting.requeue(request)

    def _chunk(self, request: EngineRequest, count: int) -> Chunk:
        assert request.slot is not None
        start = request.num_computed
        end = start + count
        new_pages = tuple(request.pages[request.num_sent_pages :])
        request.num_sent_pages = len(request.pages)
        draw = request.draw() if end == len(request.tokens) else None
        tokens = tuple(request.tokens[start:end])
        images, scored = request.images_in(start, end), request.scored(start, end)
        snapshot = self._prefixes.snapshot(end) if self.shape.num_snapshots else None
        return Chunk(request.slot, tokens, start, new_pages, draw, images, scored, snapshot)

    def _score(self, request: EngineRequest, start: int, scores: Sequence[Logprob]) -> list[Event]:
        """Return the prompt's logprobs from token `start` on, without those sent before a preemption."""
        news = list(scores[max(0, request.num_scored - start) :])
        request.num_scored = max(request.num_scored, start + len(scores))
        return [Scored(request.id, news)] if news else []

    def _append(self, request: EngineRequest, token: int, logprob: Logprob | None) -> list[Event]:
        if not request.max_tokens:
            return [self._finish(request, "length")]
        request.tokens.append(token)
        if token in request.stop_ids and request.num_output > request.min_tokens:
            return [self._finish(request, "stop", stop_id=token)]
        news = Tokens(request.id, [token], [] if logprob is None else [logprob])
        if request.matcher:
            if failed := request.matcher.accept_token(token):
                status, code, message = failed
                return [news, self._refuse(request, status, code, message=message, retry=None)]
            if request.matcher.is_terminated:
                return [news, self._finish(request, "stop")]
        if request.num_output >= request.max_tokens:
            return [news, self._finish(request, "length")]
        return [news]

    # --- the end ----------------------------------------------------------------------------------------

    def _finish(self, request: EngineRequest, reason: str, *, stop_id: int | None = None) -> Finished:
        self._remove(request)
        prompt, output, cached = request.num_prompt, request.num_output, request.num_cached or 0
        return Finished(request.id, reason, prompt, output, cached, stop_id)

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
        request.slot = None
        request.pages = []
        request.num_sent_pages = 0

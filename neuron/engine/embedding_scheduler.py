"""Embedding requests of one model: first come, first served, packed into steps under a token budget.

The methods are those of `Scheduler`, so that the worker's loop need not know which of the two it has.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.engine.throughput import Throughput
from neuron.pipe import Embed, Embedded, Finished, ModelStatus, Refused
from neuron.step import EmbeddingPlan


@dataclass(slots=True)
class _EmbeddingRequest:
    embed: Embed
    submitted_at: float
    num_planned: int = 0  # inputs
    vectors: list[bytes] = field(default_factory=list)


class EmbeddingScheduler:
    """The requests of one model. Not thread-safe, and without a clock: callers pass seconds."""

    request_type = Embed

    def __init__(self, model: str, *, context: int, vocab_size: int, limits: SchedulerLimits) -> None:
        self.model = model
        self.limits = limits
        self._context = context
        self._vocab_size = vocab_size
        self._requests: OrderedDict[int, _EmbeddingRequest] = OrderedDict()
        self._planned: deque[int] = deque()  # the request of each input of the running step
        self._throughput = Throughput()
        self._rejected = 0
        self._timed_out = 0

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def submit(self, embed: Embed, now: float, matcher: object = None, images: object = ()) -> Refused | None:
        """Queue a request, or return its refusal."""
        for tokens in embed.inputs:
            is_known = tokens and 0 <= min(tokens) <= max(tokens) < self._vocab_size
            if not is_known or len(tokens) > self._context:
                return self._invalid(embed, tokens)
        if len(self._requests) >= self.limits.max_waiting + self.limits.max_running:
            self._rejected += 1
            message = f"{self.model} has {len(self._requests)} requests waiting, which is its limit"
            return Refused(embed.id, 429, "queue_full", message, 1)
        self._requests[embed.id] = _EmbeddingRequest(embed, now)
        return None

    def cancel(self, request_id: int) -> Finished | None:
        """End a request whose client went away; None when it has ended already."""
        if self._requests.pop(request_id, None) is None:
            return None
        return Finished(request_id, "cancelled", 0, 0)

    def expire(self, now: float) -> list[Refused]:
        """Refuse the requests that have waited too long without being run."""
        deadline = now - self.limits.max_wait_s
        late = [i for i, r in self._requests.items() if not r.num_planned and r.submitted_at < deadline]
        self._rejected += len(late)
        self._timed_out += len(late)
        message = f"waited {self.limits.max_wait_s:g} s for {self.model} without getting a turn"
        return [self._refuse(request_id, 503, "queue_timeout", message, 1) for request_id in late]

    def end_all(self, code: str, message: str, retry_after_s: int) -> list[Refused]:
        """Refuse every request, because the model or the device goes away."""
        return [
            self._refuse(request_id, 503, code, message, retry_after_s) for request_id in list(self._requests)
        ]

    def reset_cache(self) -> None:
        """Do nothing: there is no cache."""

    def plan(self) -> EmbeddingPlan | None:
        """Return the oldest inputs that fit in `step_tokens` padded, but at least one; None without any."""
        inputs: list[tuple[int, ...]] = []
        self._planned.clear()
        width = 0
        for request in self._requests.values():
            for tokens in request.embed.inputs[request.num_planned :]:
                width = max(width, len(tokens))
                if inputs and width * (len(inputs) + 1) > self.limits.step_tokens:
                    return EmbeddingPlan(tuple(inputs))
                inputs.append(tuple(tokens))
                self._planned.append(request.embed.id)
                request.num_planned += 1
        return EmbeddingPlan(tuple(inputs)) if inputs else None

    def apply(self, plan: EmbeddingPlan, vectors: list[bytes], seconds: float) -> list[Embedded]:
        """Take in what `plan` computed in `seconds`; return the answers that are complete."""
        self._throughput.add(sum(map(len, plan.inputs)), seconds)
        done: list[Embedded] = []
        for request_id, vector in zip(self._planned, vectors, strict=True):
            request = self._requests[request_id]
            request.vectors.append(vector)
            if len(request.vectors) == len(request.embed.inputs):
                del self._requests[request_id]
                done.append(Embedded(request_id, b"".join(request.vectors)))
        return done

    def fail(self, plan: EmbeddingPlan, message: str) -> list[Refused]:
        """Refuse the requests of a step that the device could not run."""
        return [self._refuse(i, 500, "engine_error", message, None) for i in dict.fromkeys(self._planned)]

    def status(self) -> ModelStatus:
        started = sum(1 for request in self._requests.values() if request.num_planned)
        return ModelStatus(
            model=self.model,
            running=started,
            waiting=len(self._requests) - started,
            max_running=self.limits.max_running,
            max_waiting=self.limits.max_waiting,
            kv_pages_free=0,
            kv_pages_total=0,
            tok_s_prefill=round(self._throughput.per_second, 1),
            tok_s_decode=0.0,
            rejected=self._rejected,
            timed_out=self._timed_out,
        )

    def _invalid(self, embed: Embed, tokens: list[int]) -> Refused:
        if len(tokens) > self._context:
            message = (
                f"This model's maximum context length is {self._context} tokens. However, an input has "
                f"{len(tokens)} tokens. Please shorten it."
            )
            return Refused(embed.id, 400, "context_length_exceeded", message)
        message = f"an input is empty or has token ids outside the vocabulary of {self._vocab_size}"
        return Refused(embed.id, 400, "invalid_request", message)

    def _refuse(self, request_id: int, status: int, code: str, message: str, retry: int | None) -> Refused:
        del self._requests[request_id]
        return Refused(request_id, status, code, message, retry)

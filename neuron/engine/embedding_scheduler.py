"""Embedding requests of one model: first come, first served, packed into steps under a token budget.

The inputs of a request run in the order of their lengths, so that those of a step are about equally long.
The methods are those of `Scheduler`, so that the worker's loop need not know which of the two it has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from neuron.engine.prefill_budget import turn_s
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.engine.throughput import Throughput
from neuron.pipe import Embed, Embedded, Finished, ModelStatus, Refused
from neuron.step import EmbeddingPlan, EncodedText


@dataclass(slots=True)
class _EmbeddingRequest:
    embed: Embed
    submitted_at: float
    order: list[int] = field(init=False)  # of its inputs
    num_planned: int = 0  # inputs
    vectors: dict[int, bytes] = field(default_factory=dict)  # by input

    def __post_init__(self) -> None:
        lengths = [len(tokens) for tokens in self.embed.inputs]
        self.order = sorted(range(len(lengths)), key=lengths.__getitem__)

    def text(self, index: int) -> EncodedText:
        embed = self.embed
        second = embed.seconds[index] if embed.seconds else None
        return EncodedText(tuple(embed.inputs[index]), embed.num_prompt, second)


class EmbeddingScheduler:
    """The requests of one model. Not thread-safe, and without a clock: callers pass seconds."""

    request_type = Embed

    def __init__(
        self, model: str, *, context: int, vocab_size: int, limits: SchedulerLimits, pads: bool = True
    ) -> None:
        """Unless the model `pads`, an input of a step takes no more than its own tokens."""
        self.model = model
        self._pads = pads
        self.limits = limits
        self._context = context
        self._vocab_size = vocab_size
        self._requests: OrderedDict[int, _EmbeddingRequest] = OrderedDict()
        self._planned: list[tuple[int, int]] = []  # request and input of each of the step
        self._begun: tuple[EncodedText, ...] | None = (
            None  # inputs of a step that the device is in the middle of
        )
        self._throughput = Throughput()
        self._rejected = 0
        self._timed_out = 0

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._begun)

    def submit(
        self,
        embed: Embed,
        now: float,
        matcher: object = None,
        images: object = (),
        adapter: object = None,
    ) -> Refused | None:
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

    @property
    def stream_s(self) -> float:
        """0: there are no streams."""
        return 0.0

    def plan(self, others_s: float = 0.0) -> EmbeddingPlan | None:
        """Return the oldest inputs that fit in `step_tokens`, but at least one; None without any.

        Beside streams whose steps take `others_s`, and of long inputs, a step takes several turns.
        """
        inputs = self._begun
        if inputs is None or all(request not in self._requests for request, _ in self._planned):
            inputs = self._next_inputs()
        if not inputs:
            return EmbeddingPlan(()) if self._begun else None
        is_long = sum(len(text.tokens) for text in inputs) > self.limits.step_tokens
        return EmbeddingPlan(inputs, turn_s(self.limits, others_s) if others_s or is_long else None)

    def _next_inputs(self) -> tuple[EncodedText, ...]:
        inputs: list[EncodedText] = []
        self._planned.clear()
        width = total = 0
        for request in self._requests.values():
            for index in request.order[request.num_planned :]:
                length = len(request.embed.inputs[index])
                width, total = max(width, length), total + length
                taken = width * (len(inputs) + 1) if self._pads else total
                if inputs and taken > self.limits.step_tokens:
                    return tuple(inputs)
                inputs.append(request.text(index))
                self._planned.append((request.embed.id, index))
                request.num_planned += 1
        return tuple(inputs)

    def apply(self, plan: EmbeddingPlan, vectors: Sequence[bytes] | None, seconds: float) -> list[Embedded]:
        """Take in what `plan` computed in `seconds`; return the answers that are complete."""
        self._begun = plan.inputs if vectors is None else None
        self._throughput.add(0 if vectors is None else sum(len(text.tokens) for text in plan.inputs), seconds)
        done: list[Embedded] = []
        for (request_id, index), vector in zip(self._planned, vectors or (), strict=vectors is not None):
            request = self._requests.get(request_id)
            if request is None:  # it was cancelled while the step ran
                continue
            request.vectors[index] = vector
            if (count := len(request.vectors)) == len(request.embed.inputs):
                del self._requests[request_id]
                done.append(Embedded(request_id, b"".join(request.vectors[at] for at in range(count))))
        return done

    def fail(self, plan: EmbeddingPlan, message: str) -> list[Refused]:
        """Refuse the requests of a step that the device could not run."""
        self._begun = None
        return [
            self._refuse(i, 500, "engine_error", message, None)
            for i in dict.fromkeys(request for request, _ in self._planned)
            if i in self._requests
        ]

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

"""The choices of an answer, each on its way from the engine's tokens to text, reasoning and tool calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from neuron.api.answers.logprobs import DrawnToken, ScoredToken
from neuron.api.answers.usage import Timings, Usage, timings, usage
from neuron.generation import Generation
from neuron.harness import LocalModel
from neuron.pipe import Finished, Refused, Submit
from neuron.text.answer import AnswerStream
from neuron.text.events import Event
from neuron.wire import ApiError

# fields of a `Submit` that every endpoint has under one name
_SUBMIT_PARAMS = {"stop_ids": "stop_token_ids", "logit_bias": "logit_bias"}


@dataclass(slots=True)
class AnswerDelta:
    """What some tokens added to a choice; an empty one is a sign of life."""

    events: list[Event] = field(default_factory=list)
    drawn: list[DrawnToken] = field(default_factory=list)


class ChoiceEnd(NamedTuple):
    """How a choice ended: OpenAI's stop, length or tool_calls; and what stopped it, as vLLM tells it."""

    finish_reason: str
    stop_reason: str | int | None  # a stop string, or the id of a stop token that is no end token


class AnswerChoice:
    """One choice: the tokens of its generation, read through its answer stream.

    With `after`, a choice of the same prompt, it is submitted once that one has its first token: by then the
    prompt's pages are computed, and shared. `fields` is the request's log line. `blame` names the parameter
    at fault when the engine refuses, by the field of the `Submit` that it names, else by its code.
    """

    def __init__(
        self,
        submit: Submit,
        answer: AnswerStream,
        model: LocalModel,
        fields: dict[str, Any],
        *,
        blame: Mapping[str, str],
        after: AnswerChoice | None = None,
    ) -> None:
        self._submit = submit
        self._answer = answer
        self._model = model
        self._fields = fields
        self._blame = blame
        self._after = after
        self._generation: Generation | None = None
        self._started = time.monotonic()
        self._first_at: float | None = None  # when its first token came
        self._ended_at = self._started
        self._first: list[int] | None = None
        self.has_head = asyncio.Event()  # set with the first token, and at the end

    def start(self) -> Generation:
        """The choice's generation, which the first call submits."""
        if self._generation is None:
            self._generation = self._model.submit(self._submit)
        return self._generation

    def cancel(self) -> None:
        self.has_head.set()
        if self._generation:
            self._generation.cancel()

    async def wait_for_head(self, timeout_s: float) -> None:
        """Wait for the first tokens, so that an error before them gets its own status. Raises `ApiError`."""
        generation = await self._start_in_turn()
        self._first = await generation.read(timeout_s)
        if not self._first and isinstance(generation.end, Refused):
            raise self._refusal(generation.end)

    async def _start_in_turn(self) -> Generation:
        if self._after is not None:
            await self._after.has_head.wait()
            self._after = None
        return self.start()

    async def deltas(self, keepalive_s: float | None = None) -> AsyncGenerator[AnswerDelta, None]:
        """The answer as it comes, with an empty delta after each silence of `keepalive_s`.

        Raises `ApiError` when the generation does not finish.
        """
        generation = await self._start_in_turn()
        try:
            async with aclosing(self._read(generation, keepalive_s)) as deltas:
                async for delta in deltas:
                    yield delta
        except asyncio.CancelledError:
            self._fields["code"] = "client_gone"
            raise
        finally:
            self.has_head.set()
            self._count("completion_tokens", self._answer.tokens)
        if rest := self._answer.finish():
            yield AnswerDelta(rest)
        end = generation.end
        if isinstance(end, Refused):
            raise self._refusal(end)
        assert end is not None
        if end.reason == "cancelled" and not self._answer.is_stopped:
            raise ApiError(503, "cancelled", "The request was cancelled.")
        self._log_end(end)

    async def _read(
        self, generation: Generation, keepalive_s: float | None
    ) -> AsyncGenerator[AnswerDelta, None]:
        tokens = self._first
        self._first = None
        if tokens is None:
            tokens = await generation.read(keepalive_s)
        while tokens != []:
            if tokens is None:
                yield AnswerDelta()
            else:
                self.has_head.set()
                delta = self._feed(generation, tokens)
                if delta.events or delta.drawn:
                    yield delta
            tokens = await generation.read(keepalive_s)

    def _feed(self, generation: Generation, tokens: list[int]) -> AnswerDelta:
        if self._first_at is None:
            self._first_at = time.monotonic()
            self._fields.setdefault("ttft_ms", round(1000 * (self._first_at - self._started), 1))
        delta = AnswerDelta()
        for token in tokens:
            logprob = generation.logprobs.popleft() if generation.logprobs else None
            if logprob is not None and not self._answer.is_stopped:
                delta.drawn.append(DrawnToken(token, logprob))
            delta.events += self._answer.feed(token)
        if self._answer.is_stopped:
            self.cancel()
        return delta

    def _log_end(self, end: Finished) -> None:
        self._ended_at = time.monotonic()
        self._fields["prompt_tokens"] = end.prompt_tokens
        self._fields["cached_tokens"] = end.cached_tokens
        self._fields["finish_reason"] = self.ending.finish_reason
        if (times := self._timings) is not None:
            self._fields |= {
                "queue_ms": times.queue_ms,
                "prefill_ms": times.prefill_ms,
                "decode_ms": times.decode_ms,
            }
        if self._answer.malformed_calls:
            self._count("malformed_calls", self._answer.malformed_calls)
        self._count("completion_tokens", self._num_completion(end) - self._answer.tokens)

    def _count(self, name: str, amount: int) -> None:
        self._fields[name] = self._fields.get(name, 0) + amount

    def _num_completion(self, end: Finished) -> int:
        # What the engine made after a stop string is not part of the answer.
        return self._answer.tokens if self._answer.is_stopped else end.completion_tokens

    @property
    def scored_prompt(self) -> list[ScoredToken]:
        """The prompt's tokens with their logprobs, None for the first; complete once the answer begins."""
        if not self._submit.score_prompt or self._generation is None:
            return []
        return list(zip(self._submit.tokens, [None, *self._generation.prompt_logprobs], strict=True))

    @property
    def _end(self) -> Finished:
        assert self._generation
        assert isinstance(self._generation.end, Finished)
        return self._generation.end

    @property
    def ending(self) -> ChoiceEnd:
        """Only for a choice that finished."""
        if self._end.reason == "length" and not self._answer.is_stopped:
            return ChoiceEnd("length", None)
        return ChoiceEnd("tool_calls" if self._answer.has_calls else "stop", self._stop_reason)

    @property
    def _stop_reason(self) -> str | int | None:
        if self._answer.is_stopped:
            return self._answer.stop_string
        return None if self._end.stop_id in self._model.text.eos_ids else self._end.stop_id

    @property
    def usage(self) -> Usage:
        """Only for a choice that finished."""
        return usage(
            prompt=self._end.prompt_tokens,
            completion=self._num_completion(self._end),
            cached=self._end.cached_tokens,
            reasoning=self._answer.reasoning_tokens,
            drafted=self._end.drafted_tokens,
            accepted=self._end.accepted_tokens,
            timings=self._timings,
        )

    @property
    def _timings(self) -> Timings | None:
        if self._first_at is None:
            return None
        first_token_s = self._first_at - self._started
        decode_s = self._ended_at - self._first_at
        return timings(queue_s=self._end.queue_s, first_token_s=first_token_s, decode_s=decode_s)

    def note_error(self, error: ApiError) -> None:
        self._fields["code"] = error.code

    def _refusal(self, end: Refused) -> ApiError:
        param = self._blame.get(end.field or end.code, _SUBMIT_PARAMS.get(end.field))
        return ApiError(end.status, end.code, end.message, param=param, retry_after_s=end.retry_after_s)


def prompt_choices(
    submits: Sequence[Submit],
    read: Callable[[], AnswerStream],
    model: LocalModel,
    fields: dict[str, Any],
    *,
    blame: Mapping[str, str],
) -> list[AnswerChoice]:
    """The choices of one prompt, none of them started; those after the first wait for its first token."""
    first = AnswerChoice(submits[0], read(), model, fields, blame=blame)
    others = [AnswerChoice(submit, read(), model, fields, blame=blame, after=first) for submit in submits[1:]]
    return [first, *others]


def start_choices(prompts: Sequence[Sequence[AnswerChoice]]) -> None:
    """Submit the first choice of each prompt. However the current task ends, all choices end with it."""

    def cancel_all(_: asyncio.Task[Any]) -> None:
        for choices in prompts:
            for choice in choices:
                choice.cancel()

    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(cancel_all)
    for choices in prompts:
        choices[0].start()


async def collect(choices: Sequence[AnswerChoice]) -> list[AnswerDelta]:
    """The whole of each choice in one delta. Raises `ApiError`."""
    whole = [AnswerDelta() for _ in choices]

    async def read(index: int, choice: AnswerChoice) -> None:
        async with aclosing(choice.deltas()) as deltas:
            async for delta in deltas:
                whole[index].events += delta.events
                whole[index].drawn += delta.drawn

    await concurrently(read, choices)
    return whole


async def concurrently(
    work: Callable[[int, AnswerChoice], Awaitable[None]], choices: Sequence[AnswerChoice]
) -> None:
    """Do `work` on every choice at once. The first error ends the others and is raised."""
    if len(choices) == 1:
        await work(0, choices[0])
        return
    tasks = [asyncio.ensure_future(work(index, choice)) for index, choice in enumerate(choices)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

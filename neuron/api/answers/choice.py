"""The way of a request's choices from the engine to whoever writes them down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from neuron.api.answers.chunks import Usage, usage
from neuron.api.answers.logprobs import Drawn
from neuron.config import StreamSettings
from neuron.generation import Generation
from neuron.harness import LocalModel
from neuron.pipe import Finished, Logprob, Refused
from neuron.supervisor.job import Caller, Job
from neuron.text.answer import AnswerStream
from neuron.text.events import Event
from neuron.wire import ApiError


@dataclass(frozen=True, slots=True)
class Prepared:
    """One choice before it runs. `params` names what to blame when the engine refuses, by its code."""

    job: Job
    answer: AnswerStream
    params: dict[str, str]


@dataclass(slots=True)
class AnswerDelta:
    """What came of some tokens; nothing at all is a sign of life."""

    events: list[Event] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)


class AnswerChoice:
    """One choice on its way: reads its generation through its answer stream.

    Given `after`, a run with the same prompt, it is submitted once that one has its first token: the prompt's
    pages are computed then, and shared. `fields` is the request's log line.
    """

    def __init__(
        self,
        prepared: Prepared,
        model: LocalModel,
        settings: StreamSettings,
        fields: dict[str, Any],
        *,
        after: AnswerChoice | None = None,
    ) -> None:
        self._prepared = prepared
        self._answer = prepared.answer
        self._model = model
        self._settings = settings
        self._fields = fields
        self._after = after
        self._generation: Generation | None = None if after else model.submit(prepared.job)
        self._started = time.monotonic()
        self._first: list[int] | None = None
        self._has_head = asyncio.Event()

    def cancel(self) -> None:
        self._has_head.set()
        if self._generation:
            self._generation.cancel()

    async def wait_for_head(self) -> None:
        """Wait for the first tokens, so that an error before them has its own status. Raises `ApiError`."""
        generation = await self._submitted()
        self._first = await generation.read(self._settings.head_wait_s)
        if not self._first and isinstance(generation.end, Refused):
            raise self._refusal(generation.end)

    async def _submitted(self) -> Generation:
        if self._after is not None:
            await self._after._has_head.wait()  # noqa: SLF001 - one of us
            self._after = None
        if self._generation is None:
            self._generation = self._model.submit(self._prepared.job)
        return self._generation

    async def pieces(self) -> AsyncGenerator[AnswerDelta, None]:
        """The answer as it comes. Ends, or raises `ApiError`."""
        generation = await self._submitted()
        try:
            async with aclosing(self._read(generation)) as pieces:
                async for piece in pieces:
                    yield piece
        except asyncio.CancelledError:
            self._fields["code"] = "client_gone"
            raise
        finally:
            self._has_head.set()
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

    async def _read(self, generation: Generation) -> AsyncGenerator[AnswerDelta, None]:
        tokens, self._first = self._first, None
        if tokens is None:
            tokens = await generation.read(self._settings.keepalive_s)
        while tokens != []:
            if tokens is None:
                yield AnswerDelta()
            else:
                self._has_head.set()
                piece = self._feed(generation, tokens)
                if piece.events or piece.drawn:
                    yield piece
            tokens = await generation.read(self._settings.keepalive_s)

    def _feed(self, generation: Generation, tokens: list[int]) -> AnswerDelta:
        if not self._answer.tokens:
            self._fields.setdefault("ttft_ms", round(1000 * (time.monotonic() - self._started), 1))
        piece = AnswerDelta()
        for token in tokens:
            logprob = generation.logprobs.popleft() if generation.logprobs else None
            if logprob is not None and not self._answer.is_stopped:
                piece.drawn.append(Drawn(token, logprob))
            piece.events += self._answer.feed(token)
        if self._answer.is_stopped:
            self.cancel()
        return piece

    def _log_end(self, end: Finished) -> None:
        self._fields["prompt_tokens"] = end.prompt_tokens
        self._fields["cached_tokens"] = end.cached_tokens
        self._fields["finish_reason"] = self.finish_reason
        self._count("completion_tokens", self._made(end) - self._answer.tokens)

    def _count(self, name: str, amount: int) -> None:
        self._fields[name] = self._fields.get(name, 0) + amount

    def _made(self, end: Finished) -> int:
        # what the engine made after a stop string was nobody's
        return self._answer.tokens if self._answer.is_stopped else end.completion_tokens

    @property
    def scored_prompt(self) -> list[tuple[int, Logprob | None]]:
        """The prompt's tokens with their logprobs, the first of which has none; once the answer begins."""
        job, generation = self._prepared.job, self._generation
        if not job.score_prompt or generation is None:
            return []
        return list(zip(job.tokens, [None, *generation.prompt_logprobs], strict=True))

    @property
    def _end(self) -> Finished:
        assert self._generation
        assert isinstance(self._generation.end, Finished)
        return self._generation.end

    @property
    def finish_reason(self) -> str:
        if self._end.reason == "length" and not self._answer.is_stopped:
            return "length"
        return "tool_calls" if self._answer.has_calls else "stop"

    @property
    def usage(self) -> Usage:
        return usage(
            prompt=self._end.prompt_tokens,
            completion=self._made(self._end),
            cached=self._end.cached_tokens,
            reasoning=self._answer.reasoning_tokens,
        )

    def note_error(self, error: ApiError) -> None:
        self._fields["code"] = error.code

    def _refusal(self, end: Refused) -> ApiError:
        param = self._prepared.params.get(end.code)
        return ApiError(end.status, end.code, end.message, param=param, retry_after_s=end.retry_after_s)


def start(
    prompts: Sequence[Sequence[Prepared]],
    model: LocalModel,
    settings: StreamSettings,
    fields: dict[str, Any],
    *,
    caller: Caller,
) -> list[list[AnswerChoice]]:
    """Runs for the choices of each prompt, on behalf of `caller`. However the present task ends (the client
    gone, in whatever phase), they end with it."""
    runs: list[list[AnswerChoice]] = []
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda _: _cancel(runs))
    for prompt in prompts:
        choices = [replace(choice, job=replace(choice.job, caller=caller)) for choice in prompt]
        first = AnswerChoice(choices[0], model, settings, fields)
        runs.append(
            [first, *(AnswerChoice(other, model, settings, fields, after=first) for other in choices[1:])]
        )
    return runs


def _cancel(runs: Sequence[Sequence[AnswerChoice]]) -> None:
    for group in runs:
        for run in group:
            run.cancel()


def total_usage(runs: Sequence[Sequence[AnswerChoice]]) -> Usage:
    """Each prompt counts once, each answer by itself."""
    used = [[run.usage for run in group] for group in runs]
    answers = [one for group in used for one in group]
    return usage(
        prompt=sum(group[0].prompt_tokens for group in used),
        completion=sum(one.completion_tokens for one in answers),
        cached=sum(group[0].prompt_tokens_details["cached_tokens"] for group in used),
        reasoning=sum(one.completion_tokens_details["reasoning_tokens"] for one in answers),
    )


async def concurrently(
    work: Callable[[int, AnswerChoice], Awaitable[None]], runs: Sequence[AnswerChoice]
) -> None:
    """`work` on every run at once. The first error ends the others and is raised."""
    if len(runs) == 1:
        await work(0, runs[0])
        return
    tasks = [asyncio.ensure_future(work(index, run)) for index, run in enumerate(runs)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

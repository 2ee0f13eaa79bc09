"""Answers written as a stream of chunks, while they are generated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from cortex_site.http.response import Write
from neuron.api.answers.choice import AnswerChoice, ChoiceEnd, concurrently
from neuron.api.answers.chunks import DONE, error_chunk
from neuron.api.answers.logprobs import DrawnToken
from neuron.api.errors import internal_error
from neuron.sse import KEEPALIVE
from neuron.text.events import Event
from neuron.wire import ApiError

log = logging.getLogger("neuron.chat")


class ChoiceWriter(Protocol):
    """Encodes one choice as chunks; empty while there is nothing to send."""

    def begin(self) -> bytes: ...

    def delta(self, events: Sequence[Event], drawn: Sequence[DrawnToken]) -> bytes: ...

    def finish(self, ending: ChoiceEnd) -> bytes: ...


async def stream(
    choices: Sequence[AnswerChoice],
    writers: Sequence[ChoiceWriter],
    write: Write,
    *,
    keepalive_s: float,
    usage: Callable[[], bytes] = lambda: b"",
) -> None:
    """Write each choice by its writer, then `usage` and [DONE], or an error.

    A client that reads slowly delays its own answer alone: what waits for it is bounded by
    `stream.max_unread_tokens`.
    """

    async def copy(index: int, choice: AnswerChoice) -> None:
        writer = writers[index]
        if head := writer.begin():
            await write(head)
        async with aclosing(choice.deltas(keepalive_s)) as deltas:
            async for delta in deltas:
                await write(writer.delta(delta.events, delta.drawn) or KEEPALIVE)
        end = writer.finish(choice.ending)
        await write(end if len(choices) > 1 else end + usage() + DONE)

    try:
        await concurrently(copy, choices)
        if len(choices) > 1:
            await write(usage() + DONE)
    except ApiError as error:
        choices[0].note_error(error)
        await write(error_chunk(error))
    except Exception:  # the head is sent, so no other place can report it
        log.exception("stream failed")
        choices[0].note_error(internal_error())
        await write(error_chunk(internal_error()))

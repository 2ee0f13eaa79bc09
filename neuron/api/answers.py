"""Runs written down: collected into one object, or as a stream of chunks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from cortex_site.http.response import Write
from neuron.api import completion
from neuron.api.logprobs import Drawn
from neuron.api.run import Piece, Run, side_by_side
from neuron.text.events import Event
from neuron.wire import ApiError

log = logging.getLogger("neuron.chat")


class Choice(Protocol):
    """The chunks of one choice."""

    def begin(self) -> bytes: ...

    def piece(self, events: Sequence[Event], drawn: Sequence[Drawn]) -> bytes: ...

    def finish(self, reason: str) -> bytes: ...


async def collect(runs: Sequence[Run]) -> list[Piece]:
    """All of each run in one piece. Raises `ApiError`."""
    whole = [Piece() for _ in runs]

    async def read(index: int, run: Run) -> None:
        async with aclosing(run.pieces()) as pieces:
            async for piece in pieces:
                whole[index].events += piece.events
                whole[index].drawn += piece.drawn

    await side_by_side(read, runs)
    return whole


async def stream(
    runs: Sequence[Run], choices: Sequence[Choice], write: Write, usage: Callable[[], bytes] = lambda: b""
) -> None:
    """Write every run as its choice says, and how it all ended. A client that takes nothing holds up itself
    alone: what waits for it is bounded by `stream.max_unread_tokens`, then it is cut off."""

    async def copy(index: int, run: Run) -> None:
        choice = choices[index]
        if head := choice.begin():
            await write(head)
        async with aclosing(run.pieces()) as pieces:
            async for piece in pieces:
                await write(choice.piece(piece.events, piece.drawn) or completion.KEEPALIVE)
        end = choice.finish(run.finish_reason)
        await write(end if len(runs) > 1 else end + usage() + completion.DONE)

    try:
        await side_by_side(copy, runs)
        if len(runs) > 1:
            await write(usage() + completion.DONE)
    except ApiError as error:
        runs[0].note_error(error)
        await write(completion.error_event(error))
    except Exception:  # the head is sent: nobody else can tell the client
        log.exception("stream failed")
        bug = ApiError(500, "internal_error", "neuron made a mistake; its log has the details.")
        runs[0].note_error(bug)
        await write(completion.error_event(bug))

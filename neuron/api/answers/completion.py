"""The choices of a bare completion in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuron.api.answers.choice import AnswerChoice, ChoiceEnd
from neuron.api.answers.chunks import ChunkEncoder
from neuron.api.answers.logprobs import DrawnToken, ScoredToken, TextShape
from neuron.text.events import Content, Event


class CompletionChoiceWriter:
    """One choice, whole or as chunks, after an `echo` of its prompt.

    `scored` is the choice that brings the prompt's logprobs, when they are wanted. `chunks` is needed for a
    stream, `shape` for logprobs.
    """

    def __init__(
        self,
        index: int,
        echo: str,
        *,
        scored: AnswerChoice | None,
        chunks: ChunkEncoder | None,
        shape: TextShape | None,
    ) -> None:
        self._index = index
        self._echo = echo
        self._scored = scored
        self._chunks = chunks
        self._shape = shape
        self._has_echoed = False

    def begin(self) -> bytes:
        return b"" if self._scored else self._echo_once()

    def _echo_once(self) -> bytes:
        """The prompt's chunk, on the first call: at the beginning, or once its logprobs are known."""
        if self._has_echoed or not self._echo:
            return b""
        self._has_echoed = True
        return self._chunk(self._echo, self._scored_prompt())

    def _scored_prompt(self) -> Sequence[ScoredToken]:
        return self._scored.scored_prompt if self._scored else ()

    def delta(self, events: Sequence[Event], drawn: Sequence[DrawnToken]) -> bytes:
        text = _text(events)
        if not text and not drawn:
            return b""
        return self._echo_once() + self._chunk(text, drawn)

    def finish(self, ending: ChoiceEnd) -> bytes:
        return self._echo_once() + self._chunk("", ending=ending)

    def whole(
        self, events: Sequence[Event], drawn: Sequence[DrawnToken], ending: ChoiceEnd
    ) -> dict[str, Any]:
        return self._choice(self._echo + _text(events), [*self._scored_prompt(), *drawn], ending)

    def _chunk(self, text: str, drawn: Sequence[ScoredToken] = (), ending: ChoiceEnd | None = None) -> bytes:
        assert self._chunks
        return self._chunks.choice(self._choice(text, drawn, ending))

    def _choice(self, text: str, drawn: Sequence[ScoredToken], ending: ChoiceEnd | None) -> dict[str, Any]:
        logprobs = self._shape(drawn) if self._shape and drawn else None
        ends = ending._asdict() if ending else {"finish_reason": None}
        return {"index": self._index, "text": text, "logprobs": logprobs, **ends}


def _text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))

from __future__ import annotations

from collections.abc import Sequence

from neuron.text.detokenizer import Detokenizer
from neuron.text.events import CallStart, Content, Event, ReasoningContent
from neuron.text.notations.parser import CallParser
from neuron.text.reasoning import ReasoningSplitter
from neuron.text.stops import StopStrings


class AnswerStream:
    """One answer: feed(token) -> events, then finish() -> the rest.

    `is_stopped` turns true when a stop string was found, or the last of `max_calls` calls is complete; tokens
    fed after that are ignored. Stop strings are looked for only after `min_tokens`. `reasoning_tokens` counts
    the tokens of the reasoning block, its closing marker included.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        splitter: ReasoningSplitter,
        *,
        stops: Sequence[str] = (),
        min_tokens: int = 0,
        tools: CallParser | None = None,
        max_calls: int | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        self._splitter = splitter
        self._stops = StopStrings(stops)
        self._min_tokens = min_tokens
        self._tools = tools
        self._max_calls = max_calls
        self.tokens = 0
        self.reasoning_tokens = 0
        self.has_calls = False

    @property
    def is_stopped(self) -> bool:
        return self._stops.hit or self._has_all_calls

    @property
    def _has_all_calls(self) -> bool:
        if self._max_calls is None or self._tools is None:
            return False
        return self._tools.num_closed >= self._max_calls

    @property
    def _is_reasoning(self) -> bool:
        return self._splitter.is_inside or (self._tools is not None and self._tools.is_reasoning)

    def feed(self, token: int) -> list[Event]:
        if self.is_stopped:
            return []
        self.tokens += 1
        text = self._detokenizer.feed(token)
        if self.tokens > self._min_tokens:
            text = self._stops.feed(text)
        was_reasoning = self._is_reasoning
        events = self._split(text)
        if was_reasoning or self._is_reasoning:
            self.reasoning_tokens += 1
        return events

    def finish(self) -> list[Event]:
        """The answer is over, for whatever reason: everything still held back."""
        if self._has_all_calls:
            return []
        text = "" if self.is_stopped else self._stops.feed(self._detokenizer.finish()) + self._stops.finish()
        events = self._split(text)
        for piece in self._splitter.finish():
            events += self._parse(piece)
        if self._tools:
            events += self._seen(self._tools.finish())
        return events

    def _split(self, text: str) -> list[Event]:
        events: list[Event] = []
        for piece in self._splitter.feed(text) if text else ():
            events += self._parse(piece)
        return events

    def _parse(self, piece: Content | ReasoningContent) -> list[Event]:
        if self._tools is None or isinstance(piece, ReasoningContent):
            return [piece]
        if self._max_calls is None:
            return self._seen(self._tools.feed(piece.text))
        events: list[Event] = []
        for character in piece.text:  # what stands behind the last call is not wanted
            if not self._has_all_calls:
                events += self._tools.feed(character)
        return self._seen(events)

    def _seen(self, events: list[Event]) -> list[Event]:
        self.has_calls = self.has_calls or any(isinstance(event, CallStart) for event in events)
        return events

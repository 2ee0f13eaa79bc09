"""The chain that turns an answer's tokens into events."""

from __future__ import annotations

from collections.abc import Sequence

from neuron.text.detokenizer import Detokenizer
from neuron.text.events import CallStart, Content, Event, ReasoningContent
from neuron.text.notations.parser import CallParser
from neuron.text.reasoning import ReasoningSplitter
from neuron.text.stops import VisibleStops


class AnswerStream:
    """One answer: `feed` returns the events of a token, `finish` those of what was held back.

    `is_stopped` turns true when a stop string was found, or the last of `max_calls` calls is complete; tokens
    fed after that are ignored. Stop strings count in visible text alone, neither in thoughts nor in calls,
    and only in what comes out after `min_tokens`. `reasoning_tokens` are those of the reasoning block, its
    closing marker included.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        splitter: ReasoningSplitter,
        *,
        stops: Sequence[str] = (),
        min_tokens: int = 0,
        calls: CallParser | None = None,
        max_calls: int | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        self._splitter = splitter
        self._stops = VisibleStops(stops)
        self._min_tokens = min_tokens
        self._calls = calls
        self._max_calls = max_calls
        self.tokens = 0
        self.reasoning_tokens = 0
        self.has_calls = False

    @property
    def is_stopped(self) -> bool:
        return self.stop_string is not None or self._has_all_calls

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stops.matched

    @property
    def malformed_calls(self) -> int:
        """How often the answer opened a call and wrote none."""
        return self._calls.num_malformed if self._calls else 0

    @property
    def _has_all_calls(self) -> bool:
        if self._max_calls is None or self._calls is None:
            return False
        return self._calls.num_closed >= self._max_calls

    @property
    def _is_reasoning(self) -> bool:
        return self._splitter.is_inside or (self._calls is not None and self._calls.is_reasoning)

    def feed(self, token: int) -> list[Event]:
        if self.is_stopped:
            return []
        self.tokens += 1
        was_reasoning = self._is_reasoning
        events = self._split(self._detokenizer.feed(token))
        if was_reasoning or self._is_reasoning:
            self.reasoning_tokens += 1
        return self._shown(events)

    def finish(self) -> list[Event]:
        if self.is_stopped:
            return []
        events = self._split(self._detokenizer.finish())
        for piece in self._splitter.finish():
            events += self._parse(piece)
        if self._calls:
            events += self._calls.finish()
        return self._shown(events) + self._stops.finish()

    def _split(self, text: str) -> list[Event]:
        events: list[Event] = []
        for piece in self._splitter.feed(text) if text else ():
            events += self._parse(piece)
        return events

    def _parse(self, piece: Content | ReasoningContent) -> list[Event]:
        if self._calls is None or isinstance(piece, ReasoningContent):
            return [piece]
        if self._max_calls is None:
            return self._calls.feed(piece.text)
        events: list[Event] = []
        for character in piece.text:  # one by one: text behind the last call is dropped
            if not self._has_all_calls:
                events += self._calls.feed(character)
        return events

    def _shown(self, events: list[Event]) -> list[Event]:
        """What comes before a stop string."""
        if self.tokens > self._min_tokens:
            events = self._stops.feed(events)
        self.has_calls = self.has_calls or any(isinstance(event, CallStart) for event in events)
        return events

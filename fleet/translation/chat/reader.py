"""An OpenAI chat answer, streamed or whole, as neutral events.

Pure: bytes in, events out, no clock. It trusts nothing about an upstream but that it means to speak this
protocol; the quirks it bears are the rows of `tests/translation/test_chat_quirks.py`.
"""

from __future__ import annotations

from fleet.translation.chat.answer import Answer
from fleet.translation.chat.chunk_template import ChunkTemplate
from fleet.translation.chat.failures import TOO_LARGE
from fleet.translation.events import Event, TextDelta
from fleet.translation.sse import MAX_EVENT_BYTES, SseSplitter, SseTooLarge


class ChatReader:
    """`feed` returns the events that the bytes complete, `close` those that end the answer.

    `request_id` names the answer and its calls where the upstream does not. After `Stop` or `Failure`
    further bytes are ignored. A body that is JSON instead of a stream is read as a whole completion.
    """

    def __init__(self, *, request_id: str = "", max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._splitter = SseSplitter(max_event_bytes=max_event_bytes)
        self._answer = Answer(request_id)
        self._max_bytes = max_event_bytes
        self._json: bytearray | None = None  # the body, when it turned out to be plain JSON
        self._begun = False
        self._template: ChunkTemplate | None = None  # the last event, if it came alone and said text only

    def feed(self, data: bytes) -> list[Event]:
        if self._template is not None and (text := self._template.text(data)):
            return [TextDelta(text)]
        self._template = None
        if self._answer.over:
            return []
        if not self._begun:
            data = self._begin(data)
        if self._json is None:
            return self._events(data)
        self._json += data
        return self._answer.fail(TOO_LARGE) if len(self._json) > self._max_bytes else []

    @property
    def over(self) -> bool:
        """The last event, a stop or a failure, went out: nothing may follow it."""
        return self._answer.over

    def close(self) -> list[Event]:
        if self._answer.over:
            return []
        if self._json is not None:
            return self._answer.whole(bytes(self._json))
        events = [event for item in self._splitter.close() for event in self._answer.read(item)]
        return [*events, *self._answer.end()]

    def _begin(self, data: bytes) -> bytes:
        """Look at the first byte that is not blank: an object comes from a server that does not stream."""
        data = data.lstrip()
        if data:
            self._begun = True
            self._json = bytearray() if data.startswith(b"{") else None
        return data

    def _events(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        alone = self._splitter.is_one_event(data)
        try:
            for item in self._splitter.feed(data):
                events += self._answer.read(item)
        except SseTooLarge:
            events += self._answer.fail(TOO_LARGE)
        if alone and self._answer.said:
            self._template = ChunkTemplate.of(data, self._answer.said)
        return events


def read_completion(body: bytes, *, request_id: str = "") -> list[Event]:
    """A whole (not streamed) chat completion as the events that its stream would have been."""
    return Answer(request_id).whole(body)

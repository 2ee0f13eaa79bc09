"""An OpenAI chat answer, streamed or whole, as neutral events.

Pure: bytes in, events out, no clock. The quirks of servers that it accepts are the rows of
`tests/translation/test_chat_quirks.py`.
"""

from __future__ import annotations

from fleet.translation.chat.answer import Answer
from fleet.translation.chat.chunk_template import ChunkTemplate
from fleet.translation.chat.failures import TOO_LARGE
from fleet.translation.events import Event, TextDelta
from fleet.translation.sse import MAX_EVENT_BYTES, SseSplitter, SseTooLarge


class ChatReader:
    """`feed` returns the events that the bytes complete, `close` those that end the answer.

    `request_id` names the answer and its calls where the upstream does not. Bytes after `Stop` or `Failure`
    are ignored. A JSON body in place of a stream is read as a whole completion.
    """

    def __init__(self, *, request_id: str = "", max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._splitter = SseSplitter(max_event_bytes=max_event_bytes)
        self._answer = Answer(request_id)
        self._max_bytes = max_event_bytes
        self._json: bytearray | None = None  # the body, where it is JSON and no stream
        self._begun = False
        self._template: ChunkTemplate | None = None  # of the last event, if it came alone and held text only

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
        """Whether the last event was returned: nothing may follow it."""
        return self._answer.over

    def close(self) -> list[Event]:
        if self._answer.over:
            return []
        if self._json is not None:
            return self._answer.whole(bytes(self._json))
        events = [event for item in self._splitter.close() for event in self._answer.read(item)]
        return [*events, *self._answer.end()]

    def _begin(self, data: bytes) -> bytes:
        """Strip blanks, and tell by the first byte whether this is a stream or one JSON object."""
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
    """The events of a whole chat completion, as its stream would have given them."""
    return Answer(request_id).whole(body)

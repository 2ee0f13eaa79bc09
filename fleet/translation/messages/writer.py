"""Neutral events as Anthropic's stream.

    message_start  ping
    (content_block_start  content_block_delta*  content_block_stop)*
    message_delta  message_stop

Blocks have consecutive indices and never overlap. Every event is written with the one that caused it; only
usage waits for `message_delta`, whose counts are totals. An answer that broke off ends with `error`.
"""

from __future__ import annotations

import msgspec

from fleet.translation.events import (
    Event,
    Failure,
    MessageStart,
    Phase,
    ReasoningDelta,
    ReasoningSignature,
    RedactedReasoning,
    Stop,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from fleet.translation.messages.answer import (
    Json,
    message_of,
    redacted_block,
    stop_fields,
    text_block,
    thinking_block,
    tool_block,
    usage_fields,
)
from fleet.translation.messages.errors import error_event
from fleet.translation.messages.signature import UNSIGNED
from fleet.translation.writer import EventWriter

PING = b'event: ping\ndata: {"type":"ping"}\n\n'  # keeps the connection alive during a silence

_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_encode = msgspec.json.encode


class MessagesWriter(EventWriter):
    """Writes Anthropic's event stream. `model` is the name that the client used."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model
        self._index = 0  # of the open block, or of the next one
        self._usage = Usage()

    def _write(self, event: Event, before: Phase, after: Phase) -> None:
        match event:
            case TextDelta(text=text):
                if after is not before:
                    self._begin(text_block())
                self._delta(b'{"type":"text_delta","text":', text)
            case ReasoningDelta(text=text):
                if after is not before:
                    self._begin(thinking_block() | {"signature": ""})
                self._delta(b'{"type":"thinking_delta","thinking":', text)
            case ToolCallArguments(fragment=fragment):
                self._delta(b'{"type":"input_json_delta","partial_json":', fragment)
            case _:
                self._frame(event)

    def _frame(self, event: Event) -> None:
        match event:
            case MessageStart():
                self._start(event)
            case ToolCallStart(id=id_, name=name):
                self._begin(tool_block(id_, name))
            case ToolCallEnd():
                self._end()
            case ReasoningSignature(signature=signature):
                self._delta(b'{"type":"signature_delta","signature":', signature)
                self._end()
            case RedactedReasoning(data=data):
                self._begin(redacted_block(data))
                self._end()
            case Usage():
                self._usage = event
            case Stop():
                self._stop(event)
            case Failure():
                self._out.append(error_event(event.as_error()))

    def _leave(self, phase: Phase, event: Event) -> None:
        """Close the block that `event` ends by being of another kind; a failure leaves it open."""
        if phase not in {Phase.TEXT, Phase.REASONING} or isinstance(event, Failure | ReasoningSignature):
            return
        if phase is Phase.REASONING:
            self._delta(b'{"type":"signature_delta","signature":', UNSIGNED)
        self._end()

    def _start(self, event: MessageStart) -> None:
        message = message_of(event.id, self._model, event.usage or self._usage)
        self._usage = event.usage or self._usage
        self._event(b"message_start", {"type": "message_start", "message": message})
        self._out.append(PING)

    def _stop(self, event: Stop) -> None:
        payload = {"type": "message_delta", "delta": stop_fields(event), "usage": usage_fields(self._usage)}
        self._event(b"message_delta", payload)
        self._out.append(_MESSAGE_STOP)

    def _begin(self, block: Json) -> None:
        payload = {"type": "content_block_start", "index": self._index, "content_block": block}
        self._event(b"content_block_start", payload)

    def _delta(self, opening: bytes, text: str) -> None:
        """The hot path: called for every token."""
        self._out.append(
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b%b}}\n\n'
            % (self._index, opening, _encode(text))
        )

    def _end(self) -> None:
        self._event(b"content_block_stop", {"type": "content_block_stop", "index": self._index})
        self._index += 1

    def _event(self, name: bytes, payload: Json) -> None:
        self._out.append(b"event: %b\ndata: %b\n\n" % (name, _encode(payload)))

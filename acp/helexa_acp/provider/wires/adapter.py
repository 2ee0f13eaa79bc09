"""The protocol that each wire implements: pure translation, without I/O or a clock.

An adapter encodes requests under the endpoint's quirks. Its decoder takes the server-sent events of one
answer, or the JSON body of a server that does not stream, and returns neutral events.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from helexa_acp.provider.errors import WireError
from helexa_acp.provider.lenient_json import as_str
from helexa_acp.provider.quirks import Quirks
from helexa_acp.provider.sse import SseEvent
from helexa_acp.provider.types import (
    CompletionEvent,
    CompletionRequest,
    Finish,
    FinishReason,
    Usage,
    UsageStats,
)


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A POST request."""

    path: str  # below the endpoint's base URL
    body: dict[str, Any]


class StreamDecoder(Protocol):
    """Decodes one answer: `feed` for each event, or `body` once, then `close`."""

    def feed(self, event: SseEvent) -> list[CompletionEvent]:
        """Return the neutral events, none for an event that is unknown or malformed.

        Raises WireError for an error that the stream reports.
        """

    def body(self, value: dict[str, Any]) -> list[CompletionEvent]:
        """Return the events of an answer that was not streamed. Raises WireError."""

    def close(self) -> list[CompletionEvent]:
        """Return the ends of calls, Finish and Usage. Raises WireError if the answer was cut short."""


class Adapter(Protocol):
    """`model_tag` is "endpoint:model": reasoning that another model produced is not sent."""

    wire: str

    def headers(self, api_key: str | None) -> dict[str, str]: ...

    def encode(self, request: CompletionRequest, quirks: Quirks, model_tag: str) -> EncodedRequest: ...

    def decoder(self, *, text_tools: bool = False) -> StreamDecoder:
        """Return a decoder for one answer; with `text_tools` the model writes its calls as marked text."""

    def encode_count(
        self, request: CompletionRequest, quirks: Quirks, model_tag: str
    ) -> EncodedRequest | None:
        """Return the request for the length of the prompt, or None if this wire has none."""


def raise_error(value: Any) -> None:
    """Raise the WireError that an `error` field describes, in any of the shapes that servers use."""
    if isinstance(value, dict):
        message = as_str(value.get("message")) or json.dumps(value)[:500]
        code = value.get("code")
        status = code if isinstance(code, int) else value.get("status")
        kind = code if isinstance(code, str) else as_str(value.get("type"))
        raise WireError(message, code=kind, status=status if isinstance(status, int) else None)
    raise WireError(str(value))


class Ending:
    """What is known of an answer's end while it still streams: finish reason and latest usage."""

    def __init__(self) -> None:
        self.reason: FinishReason | None = None
        self.usage: UsageStats | None = None
        self.done = False  # the wire's own mark of the end was seen

    def close(self, *, has_calls: bool, calls_complete: bool) -> list[CompletionEvent]:
        """Return Finish, and Usage if it was reported. Raises WireError if the answer broke off."""
        if not (self.reason or self.done or self.usage or (has_calls and calls_complete)):
            raise WireError("the stream ended before its end", cut=True)
        reason = self.reason or FinishReason.STOP
        if has_calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        if not has_calls and reason is FinishReason.TOOL_CALLS:
            reason = FinishReason.STOP
        return [Finish(reason), *([Usage(self.usage)] if self.usage else [])]

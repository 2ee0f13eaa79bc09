"""What differs from wire to wire: pure translation, no I/O, no clock.

`provider.http` is the one caller. An adapter encodes a request under the endpoint's quirks; its decoder is
fed the server-sent events of one answer (or the whole JSON body of a server that does not stream) and gives
neutral events.
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
    """One POST below an endpoint's base URL."""

    path: str
    body: dict[str, Any]


class StreamDecoder(Protocol):
    def feed(self, event: SseEvent) -> list[CompletionEvent]:
        """Raises WireError for an error in the stream. Unknown and malformed events give nothing."""

    def body(self, value: dict[str, Any]) -> list[CompletionEvent]:
        """The answer of a server that ignored `stream`."""

    def close(self) -> list[CompletionEvent]:
        """The end of the answer: call ends, Finish, Usage. Raises WireError if it was cut short."""


class Adapter(Protocol):
    wire: str

    def headers(self, api_key: str | None) -> dict[str, str]: ...

    def encode(self, request: CompletionRequest, quirks: Quirks, model_tag: str) -> EncodedRequest: ...

    def decoder(self, *, text_tools: bool = False) -> StreamDecoder: ...

    def encode_count(
        self, request: CompletionRequest, quirks: Quirks, model_tag: str
    ) -> EncodedRequest | None:
        """How to ask for the prompt's exact length, where this wire has a way of its own."""


def raise_error(value: Any) -> None:
    """Raise what an `error` field says, in any of the shapes that servers use."""
    if isinstance(value, dict):
        message = as_str(value.get("message")) or json.dumps(value)[:500]
        code = value.get("code")
        status = code if isinstance(code, int) else value.get("status")
        kind = code if isinstance(code, str) else as_str(value.get("type"))
        raise WireError(message, code=kind, status=status if isinstance(status, int) else None)
    raise WireError(str(value))


class Ending:
    """The end of an answer, kept until it comes: finish reason and the last usage."""

    def __init__(self) -> None:
        self.reason: FinishReason | None = None
        self.usage: UsageStats | None = None
        self.done = False

    def close(self, *, has_calls: bool, calls_complete: bool) -> list[CompletionEvent]:
        if not (self.reason or self.done or self.usage or (has_calls and calls_complete)):
            raise WireError("the stream ended before its end", cut=True)
        reason = self.reason or FinishReason.STOP
        if has_calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        if not has_calls and reason is FinishReason.TOOL_CALLS:
            reason = FinishReason.STOP
        return [Finish(reason), *([Usage(self.usage)] if self.usage else [])]

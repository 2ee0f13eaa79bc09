"""OpenAI's Responses API as a dialect of clients; `stored` says what is stored of an answer."""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.translation.chat import read_completion
from fleet.translation.events import Failure
from fleet.translation.responses import kept, stored
from fleet.translation.responses.call import ResponsesCall, to_chat, to_compact
from fleet.translation.responses.output import compaction
from fleet.translation.responses.sealed import Sealer
from fleet.translation.responses.writer import ResponsesWriter, WholeResponse
from neuron.wire import ApiError

__all__ = [
    "ResponsesCall",
    "ResponsesWriter",
    "Sealer",
    "compaction",
    "count_body",
    "error_body",
    "error_event",
    "from_chat",
    "kept",
    "stored",
    "to_chat",
    "to_compact",
]


def from_chat(
    body: bytes, call: ResponsesCall, *, created_at: int, ident: str = "", sealer: Sealer | None = None
) -> dict[str, Any]:
    """The response from a whole chat completion. Raises `ApiError` where the body is no answer."""
    whole = WholeResponse(call, created_at=created_at, ident=ident, sealer=sealer)
    events = read_completion(body)
    if isinstance(events[-1], Failure):
        raise events[-1].as_error()
    whole.write(events)
    return whole.response


def count_body(input_tokens: int) -> bytes:
    """The body of an answer to `input_tokens`."""
    return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": input_tokens})


def error_body(error: ApiError) -> bytes:
    """The body of an error answer, in OpenAI's envelope."""
    return msgspec.json.encode(error.envelope())


def error_event(error: ApiError) -> bytes:
    """The only event of a stream that broke off before its response began."""
    payload = {
        "type": "error",
        "sequence_number": 0,
        "code": error.code,
        "message": error.message,
        "param": error.param,
    }
    return b"event: error\ndata: " + msgspec.json.encode(payload) + b"\n\n"

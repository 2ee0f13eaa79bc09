"""OpenAI's Responses API as a dialect of clients. Without a store: nothing is kept between two requests."""

from __future__ import annotations

import msgspec

from fleet.translation.chat import read_completion
from fleet.translation.events import Failure
from fleet.translation.responses.call import ResponsesCall, to_chat
from fleet.translation.responses.writer import ResponsesWriter
from neuron.wire import ApiError

__all__ = ["ResponsesCall", "ResponsesWriter", "error_body", "error_event", "from_chat", "to_chat"]


def from_chat(body: bytes, call: ResponsesCall, *, created_at: int, request_id: str = "") -> bytes:
    """A whole chat completion as a response. Raises ApiError where the body is an error or no answer."""
    writer = ResponsesWriter(call, created_at=created_at, request_id=request_id)
    events = read_completion(body, request_id=request_id)
    if isinstance(events[-1], Failure):
        raise events[-1].as_error()
    writer.write(events)
    return msgspec.json.encode(writer.response)


def error_body(error: ApiError) -> bytes:
    """The body of an error answer, in OpenAI's envelope."""
    return msgspec.json.encode(error.envelope())


def error_event(error: ApiError) -> bytes:
    """The one event of a stream that never got to a response; later, write a Failure instead."""
    payload = {
        "type": "error",
        "sequence_number": 0,
        "code": error.code,
        "message": error.message,
        "param": error.param,
    }
    return b"event: error\ndata: " + msgspec.json.encode(payload) + b"\n\n"

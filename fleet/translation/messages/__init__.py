"""Anthropic's Messages API as a dialect of clients."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleet.translation.chat import read_completion
from fleet.translation.events import Event
from fleet.translation.messages.answer import build_message, without_answer
from fleet.translation.messages.call import ChatCall, to_chat, to_count
from fleet.translation.messages.errors import error_body, error_event
from fleet.translation.messages.writer import PING, MessagesWriter

__all__ = [
    "PING",
    "ChatCall",
    "MessagesWriter",
    "count_body",
    "encode_message",
    "error_body",
    "error_event",
    "from_chat",
    "to_chat",
    "to_count",
    "without_answer",
]


def from_chat(body: bytes, model: str, *, request_id: str = "", is_silent: bool = False) -> bytes:
    """The body of an Anthropic message from that of a whole chat completion.

    `model` is the name that the client used; `request_id` names an answer without an id; `is_silent` leaves
    out what the model said. Raises `ApiError` where the body is an error or no answer.
    """
    events = read_completion(body, request_id=request_id)
    return encode_message(without_answer(events) if is_silent else events, model)


def count_body(input_tokens: int) -> bytes:
    """The body of an answer to `count_tokens`."""
    return msgspec.json.encode({"input_tokens": input_tokens})


def encode_message(events: Iterable[Event], model: str) -> bytes:
    """The body of a message that is not streamed. Raises `ApiError` where the answer broke off."""
    return msgspec.json.encode(build_message(events, model))

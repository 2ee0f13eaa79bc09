"""OpenAI's shape of an answer around its choices: one JSON object, or server-sent chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from neuron.api.answers.usage import Usage
from neuron.api.errors import encode_envelope
from neuron.wire import ApiError

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.encode


class ChunkEncoder:
    """Encodes the chunks of one streamed answer. What they have in common is encoded once.

    A choice is all that differs between the chunks of chats and those of bare completions.
    """

    def __init__(self, answer_id: str, model: str, kind: str, *, include_usage: bool) -> None:
        common = b"data: " + _encode(_head(answer_id, model, kind))[:-1]
        self._before_choice = common + b',"choices":['
        self._before_usage = common + b',"choices":[],"usage":'
        # with usage asked for, every chunk but the last says null
        self._end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def choice(self, choice: dict[str, Any]) -> bytes:
        return self._before_choice + _encode(choice) + self._end

    def around(self, choice: dict[str, Any]) -> tuple[bytes, bytes]:
        """The chunk's bytes before and after the last string of `choice`, which must be empty."""
        before, _, after = self.choice(choice).rpartition(b'""')
        return before + b'"', b'"' + after

    def usage(self, used: Usage) -> bytes:
        return self._before_usage + _encode(used) + b"}\n\n"


def error_chunk(error: ApiError) -> bytes:
    """An error after the head was sent: the stream's last event, without [DONE] behind it."""
    return b"data: " + encode_envelope(error) + b"\n\n"


def whole_answer(
    answer_id: str, model: str, kind: str, *, choices: Sequence[dict[str, Any]], used: Usage
) -> bytes:
    """An answer as one JSON object."""
    return _encode(_head(answer_id, model, kind) | {"choices": choices, "usage": used})


def _head(answer_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": model}

"""What the daemon and a process of the sandbox say to each other: one call, one answer, in frames.

A frame is a 4-byte big-endian length and its payload. Calls are pickles, which carry any function and value.
Answers are msgpack: a process that reads a stranger's input is not trusted with pickles.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

HEADER_BYTES = 4


class SandboxCall(NamedTuple):
    """Run a function, which is found by its module and name, with at most so much CPU time and memory."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    cpu_s: int
    memory_mb: int


class Returned(msgspec.Struct, frozen=True, tag=True):
    value: Any


class Raised(msgspec.Struct, frozen=True, tag=True):
    """The function raised something, which is a mistake of the function."""

    text: str


class OutOfMemory(msgspec.Struct, frozen=True, tag=True):
    """The function needs more than `memory_mb`."""


Answer = Returned | Raised | OutOfMemory

_encoder = msgspec.msgpack.Encoder()
_answer: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode_call(call: SandboxCall) -> bytes:
    """The frame of a call. Raises RecursionError for arguments that are nested too deeply."""
    return _frame(pickle.dumps(tuple(call)))


def decode_call(payload: bytes) -> SandboxCall:
    return SandboxCall(*pickle.loads(payload))  # noqa: S301 - the daemon wrote it


def encode_answer(answer: Answer) -> bytes:
    return _frame(_encoder.encode(answer))


def decode_answer(payload: bytes) -> Answer:
    """The answer in a frame's payload. Raises `msgspec.DecodeError`."""
    return _answer.decode(payload)


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload

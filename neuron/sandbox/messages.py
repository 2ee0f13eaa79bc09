"""What the daemon and a process of the sandbox say to each other: one call, one answer, as pickles in frames.

A frame is a 4-byte big-endian length and its payload. Pickles carry functions by their names, and values as
they are. They are as trusted as the code on both sides, which is the same.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

HEADER_BYTES = 4


class SandboxCall(NamedTuple):
    """Run a function of a module, with at most so much CPU time and memory."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    cpu_s: int
    memory_mb: int


class Returned(NamedTuple):
    value: Any


class Raised(NamedTuple):
    """The function raised something, which is a mistake of the function."""

    text: str


class OutOfMemory(NamedTuple):
    """The function needs more than `memory_mb`."""


Answer = Returned | Raised | OutOfMemory


def encode(message: SandboxCall | Answer) -> bytes:
    """The frame of a message. Raises RecursionError for values that are nested too deeply."""
    payload = pickle.dumps(message)
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def decode_call(payload: bytes) -> SandboxCall:
    """The call in a frame's payload. Raises what importing its function raises."""
    call: SandboxCall = pickle.loads(payload)  # noqa: S301
    return call


def decode_answer(payload: bytes) -> Answer:
    """The answer in a frame's payload. Raises `pickle.UnpicklingError`."""
    answer: Answer = pickle.loads(payload)  # noqa: S301
    return answer

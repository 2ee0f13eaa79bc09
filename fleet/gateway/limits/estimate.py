"""The tokens that a request may use, before anybody has counted them."""

from __future__ import annotations

import msgspec

BYTES_PER_TOKEN = 4  # of a request's body; the usual rule of thumb, settled exactly afterwards


class _Asked(msgspec.Struct):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


_asked = msgspec.json.Decoder(_Asked)


def asked_of(body: bytes) -> tuple[int, int]:
    """The longest answer a chat body asks for, tokens (0: it does not say), and how many of them."""
    try:
        asked = _asked.decode(body)
    except msgspec.DecodeError:  # the node will say what is wrong with it
        return 0, 1
    return max(0, asked.max_completion_tokens or asked.max_tokens or 0), max(1, asked.n or 1)


def estimate(size: int, asked: tuple[int, int], *, context: int | None, answer: int) -> tuple[int, int]:
    """The tokens that a request may use: its prompt's by the body's `size` in bytes, and its answers'.

    `answer` is taken for a request that names no length; neither is more than the model's `context`.
    """
    prompt, (longest, choices) = -(-size // BYTES_PER_TOKEN), asked
    longest = longest or answer
    if context is not None:
        prompt, longest = min(prompt, context), min(longest, context)
    return prompt, longest * choices

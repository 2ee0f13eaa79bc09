# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""The tokens that a request may use, estimated before they are counted."""

from __future__ import annotations

import msgspec

from fleet.affinity import BYTES_PER_TOKEN

MOST_TOKENS, MOST_ANSWERS = 1 << 40, 1 << 20  # more is no estimate, and has no room in 64 bits


class _Asked(msgspec.Struct):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


_asked = msgspec.json.Decoder(_Asked)


def asked_of(body: bytes) -> tuple[int, int]:
    """The longest answer that a chat body asks for, in tokens (0: not said), and the number of answers."""
    try:
        asked = _asked.decode(body)
    except msgspec.DecodeError:  # the node says what is wrong with it
        return 0, 1
    return max(0, asked.max_completion_tokens or asked.max_tokens or 0), max(1, asked.n or 1)


def estimate(size: int, asked: tuple[int, int], context: int | None, answer: int) -> tuple[int, int]:
    """The tokens of a request's prompt, by the body's `size` in bytes, and of its answers.

    A request that names no length is taken to ask for `answer`. No prompt and no answer is longer than the
    model's `context`. What is estimated here is settled exactly afterwards.
    """
    longest, choices = min(asked[0] or answer, MOST_TOKENS), min(asked[1], MOST_ANSWERS)
    prompt = -(-size // BYTES_PER_TOKEN)
    if context is not None:
        most = context
        prompt, longest = min(prompt, most), min(longest, most)
    return prompt, longest * choices

"""Most chunks of a stream differ in one word only, and are read without a parser.

Comparing bytes is sound: the text between is a JSON string without quotes, escapes and control characters, so
everything around it means what it meant in the chunk before.
"""

from __future__ import annotations

import re

_CONTENT = re.compile(rb'"content"\s*:\s*"')
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+')


class ChunkTemplate:
    """The bytes around the text of an event that held text and nothing else."""

    __slots__ = ("_after", "_before")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after

    @classmethod
    def of(cls, data: bytes, text: str) -> ChunkTemplate | None:
        """The template of `data`, one whole event with `text`; None where `data` escapes the text."""
        found = [match.end() for match in _CONTENT.finditer(data)]
        written = text.encode()
        if len(found) != 1 or not data.startswith(written + b'"', found[0]):
            return None
        return cls(data[: found[0]], data[found[0] + len(written) :])

    def text(self, data: bytes) -> str:
        """The text of an event that fits the template; empty when it does not."""
        if not (data.startswith(self._before) and data.endswith(self._after)):
            return ""
        end = len(data) - len(self._after)
        if not _PLAIN.fullmatch(data, len(self._before), end):
            return ""
        try:
            return data[len(self._before) : end].decode()
        except UnicodeDecodeError:
            return ""

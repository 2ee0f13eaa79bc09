"""The last lines that a server wrote."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

MAX_LINE_CHARS = 2000
_ENDS = re.compile(rb"([\r\n])")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class ServerLog:
    """Keeps at most `max_lines` of at most `MAX_LINE_CHARS`. Of a line that is drawn over, the last state."""

    def __init__(self, max_lines: int) -> None:
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._rest = b""
        self._is_drawn_over = False

    @property
    def lines(self) -> Sequence[str]:
        return list(self._lines)

    def note(self, line: str) -> None:
        """Add a line of our own."""
        self._lines.append(line[:MAX_LINE_CHARS])
        self._is_drawn_over = False

    def feed(self, data: bytes) -> list[str]:
        """Take what was written; return the lines that are complete with it."""
        *parts, self._rest = _ENDS.split(self._rest + data)
        if len(self._rest) > MAX_LINE_CHARS:
            parts += [self._rest, b"\n"]
            self._rest = b""
        new = [self._add(text, end) for text, end in zip(parts[::2], parts[1::2], strict=True)]
        return [line for line in new if line]

    def _add(self, text: bytes, end: bytes) -> str:
        line = _COLOURS.sub("", text.decode(errors="replace")).rstrip()[:MAX_LINE_CHARS]
        if line:
            if self._is_drawn_over and self._lines:
                self._lines.pop()
            self._lines.append(line)
        if line or end == b"\n":
            self._is_drawn_over = end == b"\r"
        return line

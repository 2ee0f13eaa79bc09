"""Markers that a piece of text may hold the beginning of."""

from __future__ import annotations

import re
from collections.abc import Iterable


def held_suffix(text: str, markers: Iterable[str]) -> int:
    """The length of the longest end of `text` that may still become one of `markers`."""
    longest = 0
    for marker in markers:
        for size in range(min(len(marker) - 1, len(text)), longest, -1):
            if marker.startswith(text[-size:]):
                longest = size
                break
    return longest


class MarkerSet:
    """Markers to look for in a text that comes in pieces."""

    def __init__(self, markers: Iterable[str]) -> None:
        self._markers = tuple(dict.fromkeys(markers))
        longest_first = sorted(self._markers, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._reach = max(map(len, self._markers), default=1) - 1
        self._firsts = {marker[0] for marker in self._markers}

    def search(self, text: str, start: int = 0) -> re.Match[str] | None:
        """The first marker in `text`, the longest where several begin."""
        return self._any.search(text, start)

    def find(self, text: str) -> tuple[int, re.Match[str] | None]:
        """How much of `text` stands before any marker, and the marker; one may also begin at the end."""
        if self._firsts.isdisjoint(text):
            return len(text), None
        if found := self._any.search(text):
            return found.start(), found
        return len(text) - self.held(text), None

    def match(self, text: str) -> re.Match[str] | None:
        """The marker that `text` begins with."""
        return self._any.match(text)

    def may_become(self, text: str) -> bool:
        """Whether `text` is the beginning of a marker."""
        return any(marker.startswith(text) for marker in self._markers)

    def held(self, text: str) -> int:
        """The length of the longest end of `text` that may still become a marker."""
        tail = text[-self._reach :] if self._reach else ""
        if self._firsts.isdisjoint(tail):
            return 0
        return held_suffix(tail, self._markers)


def any_of(markers: Iterable[str]) -> str:
    """A regular expression of the markers, longest first; of nothing when there are none.

    White space in a marker may be left out, or be somewhat more.
    """
    longest_first = sorted(filter(None, markers), key=len, reverse=True)
    return "|".join("".join(_signs(marker)) for marker in longest_first) or "(?!)"


def beginning_of(parts: Iterable[str]) -> str:
    """A regular expression of every beginning of the regular expressions `parts` in a row, none included.

    A part must be one character, or a repetition that may end anywhere.
    """
    found = ""
    for part in reversed(list(parts)):
        found = f"(?:{part}{found})?"
    return found


def beginnings_of(markers: Iterable[str]) -> str:
    """A regular expression of the beginnings of markers, at least a character and at most one too few."""
    starts = [
        re.escape(marker[0]) + beginning_of(_signs(marker[1:-1]))
        for marker in dict.fromkeys(markers)
        if len(marker) > 1
    ]
    return "|".join(starts) or "(?!)"


def _signs(text: str) -> list[str]:
    """Regular expressions of the characters of `text`; one for each run of white space."""
    return [r"\s{0,32}" if sign.isspace() else re.escape(sign) for sign in re.findall(r"\s+|\S", text)]

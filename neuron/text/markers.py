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


def any_of(markers: Iterable[str]) -> str:
    """A regular expression of the markers, longest first; of nothing when there are none.

    White space in a marker may be left out, or be more.
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
    return [r"\s*" if sign.isspace() else re.escape(sign) for sign in re.findall(r"\s+|\S", text)]

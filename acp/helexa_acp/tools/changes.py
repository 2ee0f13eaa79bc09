"""How a change of a file is shown: a diff with its place. Of a long file, only the region that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helexa_acp.tools.truncation import clip
from helexa_acp.v1.updates import diff_content, location

MAX_WHOLE_CHARS = 100_000  # of both texts; what is longer is reduced to the region that changes
CONTEXT_LINES = 20
CONTEXT_CHARS = 1000  # of a change within one long line


@dataclass(frozen=True, slots=True)
class ShownChange:
    content: list[dict[str, Any]]  # of the card
    locations: list[dict[str, Any]]


def shown_change(path: str, old: str | None, new: str) -> ShownChange:
    """Return what a card shows of the change; the location has the first changed line of the new text."""
    before = old or ""
    same = _common(lambda n: before[:n] == new[:n], min(len(before), len(new)))
    place = [location(path, new.count("\n", 0, same) + 1)]
    if old is not None and len(old) + len(new) > MAX_WHOLE_CHARS:
        old, new = changed_region(old, new)
    return ShownChange([diff_content(path, old, new)], place)


def changed_region(old: str, new: str) -> tuple[str, str]:
    """Return the part of both texts that differs, with the lines around it."""
    limit = min(len(old), len(new))
    head = _common(lambda n: old[:n] == new[:n], limit)
    tail = _common(lambda n: old[len(old) - n :] == new[len(new) - n :], limit - head)
    first = _lines_before(old, head)
    end = len(old) - _lines_after(old, len(old) - tail)
    old_part, new_part = old[first : len(old) - end], new[first : len(new) - end]
    if len(old_part) + len(new_part) > MAX_WHOLE_CHARS:  # lines without an end in sight
        first = max(first, head - CONTEXT_CHARS)
        end = max(end, tail - CONTEXT_CHARS)
        old_part, new_part = old[first : len(old) - end], new[first : len(new) - end]
    return clip(old_part, MAX_WHOLE_CHARS), clip(new_part, MAX_WHOLE_CHARS)


def _common(same: Callable[[int], bool], limit: int) -> int:
    """Return the greatest length up to the limit for which `same` holds, as it does for all shorter ones."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if same(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _lines_before(text: str, at: int) -> int:
    """Return where the context before a place begins: at the start of a line."""
    for _ in range(CONTEXT_LINES + 1):
        found = text.rfind("\n", 0, at)
        if found < 0:
            return 0
        at = found
    return at + 1


def _lines_after(text: str, at: int) -> int:
    """Return where the context after a place ends: after the end of a line."""
    for _ in range(CONTEXT_LINES + 1):
        found = text.find("\n", at)
        if found < 0:
            return len(text)
        at = found + 1
    return at

from __future__ import annotations

import re

MAX_NOTE_CHARS = 512
_UNSAFE = re.compile(r"[^ -~]")


def excerpt(text: str, max_chars: int) -> str:
    """Return `text`, or its beginning and its end if it has more than `max_chars` characters.

    What comes from outside is shown in logs and errors this way: names may be megabytes long.
    """
    if len(text) <= max_chars:
        return text
    gap = f" … {len(text) - max_chars} more characters … "
    num_first = max(0, max_chars - len(gap)) * 2 // 3
    num_last = max(0, max_chars - len(gap) - num_first)
    return f"{text[:num_first]}{gap}{text[len(text) - num_last :]}"


def as_note(text: str) -> str:
    """Return what of a stranger's words may be a header's value: a bounded number of printable characters."""
    return _UNSAFE.sub("?", text[:MAX_NOTE_CHARS])

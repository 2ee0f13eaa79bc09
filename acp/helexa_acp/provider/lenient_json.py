"""Lenient reading of JSON from servers: a value of the wrong type counts as absent, and nothing raises."""

from __future__ import annotations

import json
from typing import Any


def as_object(data: str) -> dict[str, Any] | None:
    """Return the object that the text holds, or None for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def encode_body(body: dict[str, Any]) -> bytes:
    """Return the body as UTF-8 text.

    JSON strings may hold lone surrogates, UTF-8 may not: two halves that meet are joined, any other half
    becomes U+FFFD.
    """
    text = json.dumps(body, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def as_int(value: Any) -> int:
    """Return a positive integer, or 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return max(0, value)

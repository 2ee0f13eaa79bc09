"""Tool arguments as models really write them: repaired where the intent is beyond doubt, refused where it
is not."""

from __future__ import annotations

import json
from typing import Any

MAX_ARGUMENT_CHARS = 4 * 1024 * 1024


class BadArgumentsError(Exception):
    """The arguments are no JSON object; the message says why."""


def parse_arguments(text: str) -> dict[str, Any]:
    """Raises BadArgumentsError."""
    if len(text) > MAX_ARGUMENT_CHARS:
        raise BadArgumentsError(
            f"arguments have {len(text)} characters; at most {MAX_ARGUMENT_CHARS} are read"
        )
    if not text.strip():
        return {}
    try:
        value = _decode(text.strip())
    except (ValueError, RecursionError) as error:
        raise BadArgumentsError(f"arguments are not valid JSON: {error}") from error
    if isinstance(value, str):  # encoded twice
        return parse_arguments(value) if value.strip().startswith("{") else _refuse(value)
    return value if isinstance(value, dict) else _refuse(value)


def _refuse(value: Any) -> dict[str, Any]:
    raise BadArgumentsError(f"arguments must be a JSON object, not {type(value).__name__}")


def _decode(text: str) -> Any:
    try:
        return json.loads(text, strict=False)  # raw newlines inside strings are common
    except json.JSONDecodeError:
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
        if text[end:].strip().strip("}") == "":  # one brace too many
            return value
        raise


def is_complete(text: str) -> bool:
    """Would these arguments run? Empty ones would, as no arguments."""
    try:
        parse_arguments(text)
    except BadArgumentsError:
        return False
    return True


# Tool, keys it must have, keys it may have.
_BY_KEYS: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (frozenset({"command"}), frozenset({"cwd", "timeout_s"}), "shell"),
    (frozenset({"path", "content"}), frozenset(), "write"),
    (frozenset({"path", "old_text", "new_text"}), frozenset(), "edit"),
    (frozenset({"url"}), frozenset(), "fetch"),
)


def infer_tool_name(arguments: str) -> str:
    """The one tool that takes exactly these keys, else an empty string: better refused than guessed."""
    try:
        keys = parse_arguments(arguments).keys()
    except BadArgumentsError:
        return ""
    for required, optional, name in _BY_KEYS:
        if required <= keys <= required | optional:
            return name
    return ""

"""Parsing of tool arguments as models write them: repaired if the intent is beyond doubt, else refused."""

from __future__ import annotations

import json
from typing import Any

MAX_ARGUMENT_CHARS = 4 * 1024 * 1024


class BadArgumentsError(Exception):
    """The arguments are not a JSON object. The message says why."""


def parse_arguments(text: str) -> dict[str, Any]:
    """Return the arguments, which are an object; empty text stands for none. Raises BadArgumentsError."""
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
    if isinstance(value, str) and value.strip().startswith("{"):  # encoded twice
        return parse_arguments(value)
    if not isinstance(value, dict):
        raise BadArgumentsError(f"arguments must be a JSON object, not {type(value).__name__}")
    return value


def _decode(text: str) -> Any:
    try:
        return json.loads(text, strict=False)  # raw newlines inside strings are common
    except json.JSONDecodeError:
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
        if text[end:].strip().strip("}") == "":  # braces too many
            return value
        raise


def is_complete(text: str) -> bool:
    """Return whether a call could run with these arguments; empty text stands for none."""
    try:
        parse_arguments(text)
    except BadArgumentsError:
        return False
    return True


# Required keys, optional keys, and the tool that has them.
_BY_KEYS: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (frozenset({"command"}), frozenset({"cwd", "timeout_s"}), "shell"),
    (frozenset({"path", "content"}), frozenset(), "write"),
    (frozenset({"path", "old_text", "new_text"}), frozenset(), "edit"),
    (frozenset({"url"}), frozenset(), "fetch"),
)


def infer_tool_name(arguments: str) -> str:
    """Return the one tool that takes these keys, or an empty string: a call is never guessed."""
    try:
        keys = parse_arguments(arguments).keys()
    except BadArgumentsError:
        return ""
    for required, optional, name in _BY_KEYS:
        if required <= keys <= required | optional:
            return name
    return ""

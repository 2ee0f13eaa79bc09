"""Checks of the values in the configuration. Each takes the name of the key, for the message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit


class BadValueError(Exception):
    """A table of the configuration cannot be used. The message names the key."""


def string(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadValueError(f"{key}: must be a string, not {type(value).__name__}")
    return value


def text(key: str, value: Any) -> str:
    """Return a string that is not blank."""
    if not string(key, value).strip():
        raise BadValueError(f"{key}: must not be empty")
    return str(value)


def url(key: str, value: Any) -> str:
    problem = url_problem(string(key, value))
    if problem:
        raise BadValueError(f"{key}: {problem}")
    return str(value)


def positive_int(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise BadValueError(f"{key}: must be a positive whole number, not {value!r}")
    return value


def positive_number(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise BadValueError(f"{key}: must be a positive number, not {value!r}")
    return float(value)


def boolean(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadValueError(f"{key}: must be true or false, not {value!r}")
    return value


def currency(key: str, value: Any) -> str:
    """Return an ISO 4217 code."""
    code = string(key, value)
    if len(code) != 3 or not code.isascii() or not code.isupper():
        raise BadValueError(f"{key}: must be an ISO 4217 code such as USD, not {code!r}")
    return code


def strings(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadValueError(f"{key}: must be a list of strings")
    return tuple(value)


def table(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadValueError(f"{key}: must be a table")
    return value


def string_table(key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise BadValueError(f"{key}: must be a table of strings")
    return value


def table_values(entry: Any, keys: dict[str, Callable[[str, Any], Any]], prefix: str = "") -> dict[str, Any]:
    """Return the values of a table, each checked by its key's function. Raises BadValueError.

    Its messages have the prefix, with a dot, before the key.
    """
    if not isinstance(entry, dict):
        raise BadValueError(f"{prefix.rstrip('.')}: must be a table" if prefix else "must be a table")
    unknown = entry.keys() - keys.keys()
    if unknown:
        raise BadValueError(f"{prefix}unknown key {min(unknown)!r}; the keys are {', '.join(keys)}")
    return {key: check(prefix + key, entry[key]) for key, check in keys.items() if key in entry}


def tables(table: dict[str, Any], key: str, parse: Callable[[Any], Any], notes: list[str]) -> list[Any]:
    """Return what `parse` makes of each [[key]] table, and note those that it refuses."""
    entries = table.get(key, [])
    if not isinstance(entries, list):
        notes.append(f"{key}: write each as a [[{key}]] table")
        return []
    parsed = []
    for number, entry in enumerate(entries, 1):
        try:
            parsed.append(parse(entry))
        except BadValueError as error:
            notes.append(f"[[{key}]] number {number}: {error}")
    return parsed


def url_problem(url: str) -> str | None:
    """Return what is wrong with a base URL, or None if it can be used."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    return None if valid else f"must be an http or https URL with a host, not {url!r}"

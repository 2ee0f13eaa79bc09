"""The front matter of Markdown files: lines of key and value between two lines of dashes, a part of YAML."""

from __future__ import annotations

import re

_MATTER = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n(.*))?", re.DOTALL)
_FIELD = re.compile(r"([A-Za-z][\w-]*)[ \t]*:(?:[ \t]+(.*))?")


def split_front_matter(text: str) -> tuple[dict[str, str], str]:
    """Return the fields and the rest of the text. Indented lines continue a value, as after `>` and `|`."""
    match = _MATTER.fullmatch(text)
    if match is None:
        return {}, text.strip()
    fields: dict[str, str] = {}
    key = ""
    for line in match[1].splitlines():
        found = _FIELD.fullmatch(line.rstrip())
        if found:
            key = found[1]
            value = (found[2] or "").strip()
            fields[key] = "" if re.fullmatch(r"[>|][+-]?", value) else value
        elif key and line[:1] in {" ", "\t"}:
            fields[key] = f"{fields[key]} {line.strip()}".strip()
    return {key: _unquoted(value) for key, value in fields.items()}, (match[2] or "").strip()


def _unquoted(value: str) -> str:
    for quote in ("'", '"'):
        if len(value) > 1 and value[0] == quote == value[-1]:
            return value[1:-1]
    return value

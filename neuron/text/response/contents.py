"""What stands in a field of a response template, read as the template says."""

from __future__ import annotations

import json
import re
from typing import Any

from neuron.text.response.delimiters import TimeBudget, UnreadableTemplateError, compiled

PARSERS = frozenset({"text", "int", "float", "bool", "json", "xml-inline", "kv-lines"})
MAX_DEPTH = 8  # of transforms, and of parsers within parsers
_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")
_BARE_KEY = re.compile(r"(?<=[{,])\s*(\w+)\s*:")


class ContentParser:
    """One of PARSERS with its arguments. Raises `UnreadableTemplateError` when it is made."""

    def __init__(self, name: Any, arguments: Any, scope: str, depth: int = MAX_DEPTH) -> None:
        if name not in PARSERS:
            raise UnreadableTemplateError(
                f"{scope}: no parser {name!r}; there are {', '.join(sorted(PARSERS))}"
            )
        if not isinstance(arguments, dict) or not depth:
            raise UnreadableTemplateError(f"{scope}: content_args must be an object, not nested deeply")
        self.name: str = name
        self._arguments: dict[str, Any] = arguments
        self._tag = compiled(arguments.get("tag_pattern"), scope) if name == "xml-inline" else None
        self._value: ContentParser | None = None
        if self._tag is not None and "key" not in self._tag.groupindex:
            raise UnreadableTemplateError(f"{scope}: tag_pattern has no group named key")
        if name in {"xml-inline", "kv-lines"} and (value := arguments.get("value_parser")) is not None:
            inner = value if isinstance(value, dict) else {}
            self._value = ContentParser(inner.get("name", "text"), inner.get("args", {}), scope, depth - 1)
        if name == "json":
            self._delimiters = _pairs(arguments.get("string_delims", []), scope)

    @property
    def strips(self) -> bool:
        """Whether white space around a text is dropped."""
        return bool(self._arguments.get("strip", True))

    def read(self, text: str, budget: TimeBudget) -> Any:
        """The value of the text. Raises `ValueError` for a text that has none, and `OutOfTimeError`."""
        match self.name:
            case "json":
                return self._json(text)
            case "xml-inline":
                return self._tags(text, budget)
            case "kv-lines":
                return self._lines(text, budget)
        stripped = text.strip() if self.strips else text
        match self.name:
            case "int":
                return int(stripped)
            case "float":
                return float(stripped)
            case "bool":
                return stripped.lower() in {"true", "1"}
        return stripped

    def _json(self, text: str) -> Any:
        """JSON, where keys may be bare and strings have other quotes."""
        try:
            return _loads(_standard(text, self._delimiters, self._arguments.get("unquoted_keys") is True))
        except (ValueError, RecursionError) as error:
            if self._arguments.get("allow_non_json"):
                return text.strip()
            raise ValueError("not JSON") from error

    def _tags(self, text: str, budget: TimeBudget) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merges = self._arguments.get("merge_duplicates") is True
        for tag in budget.matches(self._tag, text):  # a parser of tags has a pattern
            groups: dict[str, str | None] = tag.groupdict()
            key, value = groups["key"] or "", self._inner(groups.get("value") or "", budget)
            if merges and key in found:
                before = found[key]
                value = [*(before if isinstance(before, list) else [before]), value]
            found[key] = value
        return found

    def _lines(self, text: str, budget: TimeBudget) -> dict[str, Any]:
        separator = str(self._arguments.get("kv_sep") or ":")
        found = {}
        for line in text.split(str(self._arguments.get("line_sep") or "\n")):
            key, sign, value = line.partition(separator)
            if sign:
                found[key.strip()] = self._inner(value.strip(), budget)
        return found

    def _inner(self, text: str, budget: TimeBudget) -> Any:
        return self._value.read(text, budget) if self._value else text


def _pairs(value: Any, scope: str) -> list[tuple[str, str]]:
    listed = value if isinstance(value, list) else [None]
    pairs = [(pair[0], pair[1]) for pair in listed if isinstance(pair, list) and len(pair) == 2]
    texts = [text for pair in pairs for text in pair]
    if len(pairs) == len(listed) and all(isinstance(text, str) and text for text in texts):
        return pairs
    raise UnreadableTemplateError(f"{scope}: string_delims must be a list of pairs of texts")


def _loads(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def _standard(text: str, delimiters: list[tuple[str, str]], has_bare_keys: bool) -> str:
    """The text as JSON: what is between delimiters becomes a string, what is not may have bare keys."""
    out: list[str] = []
    while True:
        places = [(at, pair) for pair in delimiters if (at := text.find(pair[0])) >= 0]
        if not places:
            break
        at, (opening, closing) = min(places)
        end = text.find(closing, at + len(opening))
        if end < 0:
            break
        out += [_quoted_keys(text[:at], has_bare_keys), json.dumps(text[at + len(opening) : end])]
        text = text[end + len(closing) :]
    return "".join([*out, _quoted_keys(text, has_bare_keys)])


def _quoted_keys(text: str, has_bare_keys: bool) -> str:
    return _BARE_KEY.sub(r'"\1":', text) if has_bare_keys else text


def check_transform(transform: Any, scope: str, depth: int = MAX_DEPTH) -> None:
    """Raise `UnreadableTemplateError` for a transform that mixes placeholders with text, or nests deeply."""
    if not depth:
        raise UnreadableTemplateError(f"{scope}: transform is nested too deeply")
    if isinstance(transform, dict | list):
        for part in transform.values() if isinstance(transform, dict) else transform:
            check_transform(part, scope, depth - 1)
    elif (
        isinstance(transform, str)
        and _PLACEHOLDER.search(transform)
        and not _PLACEHOLDER.fullmatch(transform)
    ):
        raise UnreadableTemplateError(f"{scope}: {transform!r} mixes a placeholder with text")


def transformed(transform: Any, scope: dict[str, Any]) -> Any:
    """The transform with its placeholders filled in. Raises `ValueError` for one that names nothing."""
    if isinstance(transform, dict):
        return {key: transformed(part, scope) for key, part in transform.items()}
    if isinstance(transform, list):
        return [transformed(part, scope) for part in transform]
    placeholder = _PLACEHOLDER.fullmatch(transform) if isinstance(transform, str) else None
    if not placeholder:
        return transform
    found: Any = scope
    for key in placeholder[1].split("."):
        if not isinstance(found, dict) or key not in found:
            raise ValueError(f"{placeholder[0]} names nothing")
        found = found[key]
    return found

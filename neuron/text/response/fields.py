"""A response template, checked and ready to be read with.

The format is version 1 of what transformers 5.23 reads: fields have an opening and a closing
delimiter and a parser of what stands between; one field without an opening takes what is in no other; a start
anchor says where in the prompt the answer's own message begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from neuron.text.response.contents import ContentParser, check_transform
from neuron.text.response.delimiters import (
    Delimiter,
    Literals,
    OutOfTimeError,
    Pattern,
    TimeBudget,
    UnreadableTemplateError,
    read_delimiter,
)

MAX_FIELDS = 16
MAX_PREFIX_CHARS = 16_384  # of a prompt's end, in which the anchor is looked for
_TEMPLATE_KEYS = {"version", "defaults", "fields", "start_anchor", "start_anchor_pattern"}
_FIELD_KEYS = {"open", "open_pattern", "close", "close_pattern", "content", "content_args", "repeats", "join"}
_FIELD_KEYS |= {"optional", "transform", "transform_each"}
_ROLES: dict[str, Literal["answer", "thought", "calls"]] = {
    "content": "answer",
    "thinking": "thought",
    "reasoning": "thought",
    "reasoning_content": "thought",
    "tool_calls": "calls",
}


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of the message. `role` is None for what no client gets."""

    name: str
    role: Literal["answer", "thought", "calls"] | None
    open: Delimiter | None
    close: Delimiter | None
    parser: ContentParser
    join: str
    transform: Any
    is_transform_of_each: bool


@dataclass(frozen=True, slots=True, eq=False)
class ResponseTemplate:
    """The fields of an answer; `rest` is the one without an opening."""

    fields: tuple[Field, ...]
    rest: Field | None
    anchor: Delimiter

    def begun_by(self, prompt: str) -> str:
        """What of the prompt is the beginning of the answer's own message; empty without an anchor."""
        tail = prompt[-MAX_PREFIX_CHARS:]
        if isinstance(self.anchor, Literals):
            ends = [at + len(text) for text in self.anchor.texts if (at := tail.rfind(text)) >= 0]
            return tail[max(ends) :] if ends else ""
        try:
            ends = [match.end() for match in TimeBudget().matches(self.anchor.compiled, tail)]
        except OutOfTimeError:
            return ""
        return tail[ends[-1] :] if ends else ""


def read_template(spec: Any) -> ResponseTemplate:
    """The template that a `response_template` of tokenizer_config.json describes.

    Raises `UnreadableTemplateError`.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("fields"), dict):
        raise UnreadableTemplateError("must be an object with fields")
    _check_keys("response_template", spec, _TEMPLATE_KEYS)
    if spec.get("version", 1) != 1:
        raise UnreadableTemplateError(f"version {spec['version']} is not known")
    if not 0 < len(spec["fields"]) <= MAX_FIELDS:
        raise UnreadableTemplateError(f"must have from one to {MAX_FIELDS} fields")
    fields = tuple(_field(name, field) for name, field in spec["fields"].items())
    rest = [field for field in fields if field.open is None]
    if len(rest) > 1:
        raise UnreadableTemplateError(f"{rest[1].name}: only one field may lack an opening")
    anchor = read_delimiter("start_anchor", spec, "start_anchor")
    if anchor is None:
        raise UnreadableTemplateError("has no start_anchor")
    return ResponseTemplate(fields, rest[0] if rest else None, anchor)


def _check_keys(scope: str, spec: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(spec.keys() - known):
        raise UnreadableTemplateError(f"{scope}: {unknown[0]} is not known")


def _field(name: str, spec: Any) -> Field:
    scope = f"field {name}"
    if not isinstance(spec, dict):
        raise UnreadableTemplateError(f"{scope}: must be an object")
    _check_keys(scope, spec, _FIELD_KEYS)
    opening, closing = read_delimiter(scope, spec, "open"), read_delimiter(scope, spec, "close")
    transform, join = spec.get("transform"), spec.get("join")
    check_transform(transform, scope)
    if join is not None and not (isinstance(join, str) and spec.get("repeats")):
        raise UnreadableTemplateError(f"{scope}: join must be a text, and needs repeats")
    if transform is None and any(isinstance(end, Pattern) and end.groups for end in (opening, closing)):
        raise UnreadableTemplateError(f"{scope}: named groups need a transform")
    return Field(
        name=name,
        role=_ROLES.get(name),
        open=opening,
        close=closing,
        parser=ContentParser(spec.get("content", "text"), spec.get("content_args", {}), scope),
        join=join or "",
        transform=transform,
        is_transform_of_each=spec.get("transform_each") is True,
    )

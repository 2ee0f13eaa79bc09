"""Notations whose calls are tags with keys and values: one description for each family.

    <tool_call>
    <function=f>
    <parameter=city>
    Oslo
    </parameter>
    </function>
    </tool_call>

Qwen3-Coder writes this; `known.py` has the others. Text stands unquoted, so a grammar can enforce nothing of
its schema but `enum`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from neuron.text.grammar import GrammarBuilder
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import NewId, ToolSchemas
from neuron.text.notations.tag_parser import TagParser, TagSpelling
from neuron.text.notations.unquoted import (
    FREE_KEY,
    GAP,
    asks_nothing,
    members,
    with_definitions,
    written_value,
)
from neuron.text.notations.values import JSON, Kinds, kinds_of
from neuron.text.schema import Schema

_NUMBER = "/[1-9][0-9]{0,3}/"
_PARTS = re.compile(r"\[([^\]]*)\]|\n+|\{(?:index|key)\}|(?:(?!\{(?:index|key)\})[^\[\n])+")
_FIELDS = {"{index}": _NUMBER, "{key}": FREE_KEY}


@dataclass(frozen=True, kw_only=True)
class TagNotation(Notation):
    """A family whose calls are spelled with tags."""

    spelling: TagSpelling

    def parser(self, new_id: NewId, tools: ToolSchemas) -> TagParser:
        return TagParser(self.spelling, new_id, tools)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        properties, required, others = members(schema, schema)
        parts = [spelled(grammar, self.spelling.call.replace("{name}", name))]
        for key, value in properties.items():
            parameter = self._parameter(grammar, key, value, schema)
            parts.append(parameter if key in required else f"({parameter})?")
        if others is not None:
            parts.append(self._free_parameters(grammar, others, schema))
        call = " ".join([*parts, spelled(grammar, self.spelling.end)])
        return call if self.spelling.holds_many else self._in_block(grammar, call)

    def between(self, grammar: GrammarBuilder) -> str:
        return grammar.terminal(GAP)

    def enclose(self, grammar: GrammarBuilder, calls: str) -> str:
        return self._in_block(grammar, calls) if self.spelling.holds_many else calls

    def _in_block(self, grammar: GrammarBuilder, calls: str) -> str:
        opening, closing = (spelled(grammar, text) for text in self.spelling.block)
        return f"{opening} {calls} {grammar.terminal(GAP)} {closing}"

    def _free_parameters(self, grammar: GrammarBuilder, value: Any, root: Schema) -> str:
        """Any number of parameters with names of the model's choice."""
        values: list[Any] = [value]
        if self.spelling.kinds and asks_nothing(value):  # heads tell the type
            others = [{}] if self.spelling.kinds[1] else [{"type": kind} for kind in sorted(JSON)]
            values = [{"type": "string"}, *others]
        written = " | ".join(self._parameter(grammar, "{key}", each, root) for each in values)
        return f"({written})*"

    def _parameter(self, grammar: GrammarBuilder, key: str, value: Any, root: Schema) -> str:
        """One parameter with its value. Text is unquoted, so only `enum` of its rules can be enforced."""
        head, _, end = self.spelling.parameter.replace("{key}", key).partition("{value}")
        closer = end.rstrip()
        tail = spelled(grammar, end[len(closer) :])
        kinds = kinds_of(value, root)
        word = _word(self.spelling.kinds, kinds)
        before = spelled(grammar, head.replace("{kind}", word), value_follows=True)
        if self.spelling.kinds and not kinds:  # its head says that it is JSON
            written = f"{grammar.json(with_definitions(value, root))} {grammar.literal(closer)}"
        else:
            written = written_value(grammar, value, root, closer)
        return f"{before} {written} {tail}"


def _word(words: tuple[str, str] | None, kinds: Kinds) -> str:
    """The word in a parameter's head that tells the type of its value."""
    text, other = words or ("", "")
    if "string" in kinds:
        return text
    if other or not kinds:
        return other or "object"
    return "number" if kinds & {"integer", "number"} else min(kinds)


def spelled(grammar: GrammarBuilder, spelling: str, *, value_follows: bool = False) -> str:
    """The expression of a spelling.

    Line breaks may be missing or doubled, except before a value; what is in brackets may be missing.
    """
    parts = []
    for part in _PARTS.finditer(spelling):
        is_break = part[0].startswith("\n") and not (value_follows and part.end() == len(spelling))
        if part[1] is not None:
            parts.append(f"({spelled(grammar, part[1])})?")
        elif is_break or part[0] in _FIELDS:
            parts.append(grammar.terminal(GAP if is_break else _FIELDS[part[0]]))
        else:
            parts.append(grammar.literal(part[0]))
    return " ".join(parts)

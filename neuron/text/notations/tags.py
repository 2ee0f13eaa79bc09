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

from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import NewId, ToolSchemas
from neuron.text.notations.tag_parser import TagParser, TagSpelling
from neuron.text.notations.unquoted import (
    TEXT_RULES,
    check_choices,
    members,
    refuse_rules,
    with_definitions,
    written_choice,
)
from neuron.text.notations.values import Kinds, alternatives, kinds_of
from neuron.text.schema import Schema

_GAP = r"/[ \n]{0,2}/"
_NUMBER = "/[1-9][0-9]{0,3}/"
_PARTS = re.compile(r"\[([^\]]*)\]|\n+|\{index\}|(?:(?!\{index\})[^\[\n])+")


@dataclass(frozen=True, kw_only=True)
class TagNotation(Notation):
    """A family whose calls are spelled with tags."""

    spelling: TagSpelling

    def parser(self, new_id: NewId, tools: ToolSchemas) -> TagParser:
        return TagParser(self.spelling, new_id, tools)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        properties, required = members(schema, schema)
        parts = [spelled(grammar, self.spelling.call.replace("{name}", name))]
        for key, value in properties.items():
            parameter = self._parameter(grammar, key, value, schema)
            parts.append(parameter if key in required else f"({parameter})?")
        call = " ".join([*parts, spelled(grammar, self.spelling.end)])
        return call if self.spelling.holds_many else self._in_block(grammar, call)

    def between(self, grammar: GrammarBuilder) -> str:
        return grammar.terminal(_GAP)

    def enclose(self, grammar: GrammarBuilder, calls: str) -> str:
        return self._in_block(grammar, calls) if self.spelling.holds_many else calls

    def _in_block(self, grammar: GrammarBuilder, calls: str) -> str:
        opening, closing = (spelled(grammar, text) for text in self.spelling.block)
        return f"{opening} {calls} {grammar.terminal(_GAP)} {closing}"

    def _parameter(self, grammar: GrammarBuilder, key: str, value: Schema, root: Schema) -> str:
        """One parameter with its value. Text is unquoted, so only `enum` of its rules can be enforced."""
        head, _, end = self.spelling.parameter.replace("{key}", key).partition("{value}")
        closer = end.rstrip()
        tail = spelled(grammar, end[len(closer) :])
        kinds = kinds_of(value, root)
        word = _word(self.spelling.kinds, kinds)
        before = spelled(grammar, head.replace("{kind}", word), value_follows=True)
        if "string" not in kinds:
            return f"{before} {grammar.json(with_definitions(value, root))} {grammar.literal(closer)} {tail}"
        _check_text(value, root, kinds)
        if choices := value.get("enum"):
            check_choices(choices, kinds, closer.strip())
            written = " | ".join(grammar.literal(written_choice(choice)) for choice in choices)
            return f"{before} ({written}) {grammar.literal(closer)} {tail}"
        return f"{before} {grammar.anything_until(closer)} {tail}"


def _word(words: tuple[str, str] | None, kinds: Kinds) -> str:
    """The word in a parameter's head that tells the type of its value."""
    text, other = words or ("", "")
    if "string" in kinds:
        return text
    if other or not kinds:
        return other or "object"
    return "number" if kinds & {"integer", "number"} else min(kinds)


def _check_text(value: Schema, root: Schema, kinds: Kinds) -> None:
    for part in alternatives(value, root):
        refuse_rules(part, TEXT_RULES)
    if kinds & {"object", "array"}:
        raise UnenforceableSchemaError("this model writes text unquoted, which may stand for an object")


def spelled(grammar: GrammarBuilder, spelling: str, *, value_follows: bool = False) -> str:
    """The expression of a spelling.

    Line breaks may be missing or doubled, except before a value; what is in brackets may be missing.
    """
    parts = []
    for part in _PARTS.finditer(spelling):
        is_break = part[0].startswith("\n") and not (value_follows and part.end() == len(spelling))
        if part[1] is not None:
            parts.append(f"({spelled(grammar, part[1])})?")
        elif is_break or part[0] == "{index}":
            parts.append(grammar.terminal(_GAP if is_break else _NUMBER))
        else:
            parts.append(grammar.literal(part[0]))
    return " ".join(parts)

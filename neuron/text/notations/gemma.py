"""The notation of Gemma 4 and FunctionGemma: objects with bare keys, and texts between markers.

    <|channel>thought
    …<channel|><|tool_call>call:f{city:<|"|>Oslo<|"|>,days:3,list:[1,{a:true}]}<tool_call|>

A channel may stand anywhere, and what is in one is reasoning. FunctionGemma has no channels and wraps values
of all types like text, so that the tool's schema tells them apart. What comes out is JSON whatever the model
wrote: a missing value is null, a misplaced sign is dropped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.notations.gemma_parser import GemmaMarkers, GemmaParser
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import NewId, ToolSchemas
from neuron.text.notations.unquoted import (
    ARRAY_RULES,
    FREE_KEY,
    MAX_DEPTH,
    TEXT_RULES,
    asks_nothing,
    check_choices,
    members,
    refuse_rules,
    written_value,
)
from neuron.text.notations.values import alternatives, kinds_of
from neuron.text.schema import Schema

_SCALARS = ("boolean", "integer", "null", "number")


@dataclass(frozen=True, kw_only=True)
class GemmaNotation(Notation):
    spelling: GemmaMarkers

    def parser(self, new_id: NewId, tools: ToolSchemas) -> GemmaParser:
        return GemmaParser(self.spelling, new_id, tools)

    def between(self, grammar: GrammarBuilder) -> str:
        return '""'

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        head = grammar.literal(f"{self.spelling.open}call:{name}")
        arguments = _ValueGrammar(grammar, self.spelling, schema).object(schema, MAX_DEPTH)
        return f"{head} {arguments} {grammar.literal(self.spelling.close)}"


@dataclass(frozen=True, kw_only=True)
class ChannelNotation(GemmaNotation):
    """Gemma 4's, which thinks in channels."""

    splits_reasoning: ClassVar[bool] = True

    def thought(self, grammar: GrammarBuilder) -> str:
        opening, closing = self.spelling.channel
        head = grammar.literal(f"{opening}thought\n")
        return f"({head} {grammar.anything_until(closing)})?"


class _ValueGrammar:
    """The grammar of the values of one call. Keys stand in the order in which templates write them."""

    def __init__(self, grammar: GrammarBuilder, spelling: GemmaMarkers, root: Schema) -> None:
        self._grammar = grammar
        self._spelling = spelling
        self._root = root

    def object(self, schema: Schema, depth: int) -> str:
        properties, required, others = members(schema, self._root)
        if others is not None:
            return self._any_object(others, depth)
        keys = sorted(properties, key=str.lower) if self._spelling.is_typed else list(properties)
        return self._members(
            [
                (
                    f"{self._grammar.literal(f'{key}:')} {self.value(properties[key], depth - 1)}",
                    key in required,
                )
                for key in keys
            ]
        )

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """An object's members in order, with commas between those that are there."""
        literal, rule = self._grammar.literal, self._grammar.rule
        rest_first = rest = literal("}")
        for member, is_required in reversed(members):
            first = f"{member} {rest}"
            later = f"{literal(',')} {member} {rest}"
            rest_first = rule(first if is_required else f"({first}) | ({rest_first})")
            rest = rule(later if is_required else f"({later}) | ({rest})")
        return f"{literal('{')} {rest_first}"

    def value(self, schema: Any, depth: int) -> str:
        if depth <= 0:
            raise UnenforceableSchemaError("values are nested too deeply for this model's notation of calls")
        if not self._spelling.is_typed:
            return self._wrapped(schema)
        parts = list(alternatives(schema, self._root))
        found = [written for part in parts for written in self._written(part, depth)]
        return self._grammar.rule(" | ".join(found) or self._anything(depth))

    def _wrapped(self, schema: Any) -> str:
        """A value of any type, between quotes."""
        quote = self._spelling.quote
        return f"{self._grammar.literal(quote)} {written_value(self._grammar, schema, self._root, quote)}"

    def _written(self, part: Schema, depth: int) -> list[str]:
        """What one alternative allows; nothing when it has only references and alternatives of its own."""
        if len(part.get("allOf") or ()) > 1:
            raise UnenforceableSchemaError("this model's notation of calls cannot enforce allOf")
        if "enum" in part or "const" in part:
            choices = part.get("enum", [part.get("const")])
            bare = [choice for choice in choices if not isinstance(choice, str)]
            check_choices(bare, kinds_of(part, self._root))
            return [self._constant(choice) for choice in choices]
        kinds = part.get("type") or []
        return [self._kind(part, kind, depth) for kind in ([kinds] if isinstance(kinds, str) else kinds)]

    def _kind(self, part: Schema, kind: str, depth: int) -> str:
        if kind == "string":
            return self._text(part)
        if kind == "object":
            return self.object(part, depth)
        if kind == "array":
            refuse_rules(part, ARRAY_RULES)
            return self._array(self.value(part.get("items") or {}, depth - 1))
        return self._grammar.json(part | {"type": kind})

    def _text(self, part: Schema) -> str:
        quote = self._spelling.quote
        if choices := part.get("enum"):
            return (
                "(" + " | ".join(self._grammar.literal(f"{quote}{choice}{quote}") for choice in choices) + ")"
            )
        refuse_rules(part, TEXT_RULES)
        return f"{self._grammar.literal(quote)} {self._grammar.anything_until(quote)}"

    def _constant(self, value: Any) -> str:
        quote = self._spelling.quote
        if isinstance(value, dict | list):
            raise UnenforceableSchemaError("this model's notation of calls cannot enforce enum of objects")
        written = f"{quote}{value}{quote}" if isinstance(value, str) else json.dumps(value)
        return self._grammar.literal(written)

    def _array(self, item: str) -> str:
        literal = self._grammar.literal
        return f"{literal('[')} ({item} ({literal(',')} {item})*)? {literal(']')}"

    def _any_object(self, others: Any, depth: int) -> str:
        literal = self._grammar.literal
        value = self._anything(depth - 1) if asks_nothing(others) else self.value(others, depth - 1)
        member = f"{self._grammar.terminal(FREE_KEY)} {literal(':')} {value}"
        return f"{literal('{')} ({member} ({literal(',')} {member})*)? {literal('}')}"

    def _anything(self, depth: int) -> str:
        if not self._spelling.is_typed:
            return self._wrapped({})
        scalars = self._grammar.json({"type": list(_SCALARS)})
        found = [self._text({}), scalars]
        if depth > 1:
            found += [self._array(self._anything(min(depth - 1, 2))), self._any_object({}, min(depth - 1, 2))]
        return self._grammar.rule(" | ".join(f"({written})" for written in found))

"""MiniMax M3's notation: a parameter's name is its tag, values nest, and a sign stands before every tag.

]<]minimax[>[<tool_call>
]<]minimax[>[<invoke name="f">]<]minimax[>[<city>Oslo]<]minimax[>[</city>]<]minimax[>[</invoke>
]<]minimax[>[</tool_call>
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.notations.minimax_m3_parser import CLOSE, OPEN, SIGN, MiniMaxM3Parser
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import NewId, ToolSchemas
from neuron.text.notations.unquoted import (
    ARRAY_RULES,
    FREE_KEY,
    GAP,
    MAX_DEPTH,
    asks_nothing,
    members,
    refuse_rules,
    written_value,
)
from neuron.text.notations.values import alternatives, kinds_of
from neuron.text.schema import Schema

# Ends of elements cannot be held to their beginnings; a name that is read as another tag is none.
_KEY = f"{FREE_KEY} & ~/invoke|tool_call/"


@dataclass(frozen=True, kw_only=True)
class MiniMaxM3Notation(Notation):
    def parser(self, new_id: NewId, tools: ToolSchemas) -> MiniMaxM3Parser:
        return MiniMaxM3Parser(new_id, tools)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        head, end = grammar.literal(f'{SIGN}<invoke name="{name}">'), grammar.literal(f"{SIGN}</invoke>")
        return f"{head} {_members(grammar, schema, schema, MAX_DEPTH)} {end} {grammar.terminal(GAP)}"

    def between(self, grammar: GrammarBuilder) -> str:
        return '""'

    def enclose(self, grammar: GrammarBuilder, calls: str) -> str:
        gap = grammar.terminal(GAP)
        return f"{grammar.literal(OPEN)} {gap} {calls} {grammar.literal(CLOSE)}"


def _members(grammar: GrammarBuilder, schema: Schema, root: Schema, depth: int) -> str:
    properties, required, others = members(schema, root)
    parts = []
    for name, value in properties.items():
        member = _element(grammar, name, value, root, depth)
        parts.append(member if name in required else f"({member})?")
    if others is not None and asks_nothing(others):
        parts.append(f"({_free_element(grammar)})*")
    return " ".join(parts) or '""'


def _free_element(grammar: GrammarBuilder) -> str:
    """An element with a name of the model's choice, and text."""
    key, end = grammar.terminal(_KEY), grammar.literal(">")
    text = grammar.anything_until(f"{SIGN}</")
    return f"{grammar.literal(f'{SIGN}<')} {key} {end} {text} {key} {end}"


def _element(grammar: GrammarBuilder, name: str, value: Any, root: Schema, depth: int) -> str:
    """One value between its tags. Where it may be text it is free up to the closing tag."""
    if depth <= 0:
        raise UnenforceableSchemaError("values are nested too deeply for this model's notation of calls")
    opening, closing = grammar.literal(f"{SIGN}<{name}>"), f"{SIGN}</{name}>"
    parts = list(alternatives(value, root))
    kinds = kinds_of(value, root)
    if not kinds & {"object", "array"}:
        return f"{opening} {written_value(grammar, value, root, closing)}"
    found = [_structure(grammar, part, root, depth) for part in parts if _is_structure(part)]
    if "string" in kinds or not found:
        raise UnenforceableSchemaError("this model writes text unquoted, which may stand for an object")
    return f"{opening} ({' | '.join(found)}) {grammar.literal(closing)}"


def _is_structure(part: Schema) -> bool:
    return bool({"object", "array"}.intersection(_listed(part.get("type"))))


def _listed(kinds: Any) -> list[Any]:
    return kinds if isinstance(kinds, list) else [kinds]


def _structure(grammar: GrammarBuilder, part: Schema, root: Schema, depth: int) -> str:
    found = []
    if "object" in _listed(part.get("type")):
        found.append(_members(grammar, part, root, depth - 1))
    if "array" in _listed(part.get("type")):
        refuse_rules(part, ARRAY_RULES)
        found.append(f"({_element(grammar, 'item', part.get('items') or {}, root, depth - 1)})*")
    return " | ".join(f"({written})" for written in found)

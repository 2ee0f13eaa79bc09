"""Calls as Python writes them: `[f(a=1, b="x"), g()]`, behind a marker or as the answer itself.

Values are Python's literals, with JSON's constants; they become JSON token by token (`python_literal`), so
that arguments stream and no nesting is too deep. A value that is no literal leaves arguments that are no
JSON, for the client to see. Text where the tool's schema allows none is read once more: Llama 4 quotes all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.notations.blocks import BlockNotation, BlockParser
from neuron.text.notations.parser import MAX_HEAD_CHARS, NewId, ToolSchemas
from neuron.text.notations.python_literal import SIGNS, escaped, whole_part, word_as_json
from neuron.text.notations.unquoted import members
from neuron.text.notations.values import ANYTHING, Kinds, as_json, kinds_of, member_of
from neuron.text.schema import Schema

_NAME = r"[A-Za-z_][\w.-]{0,127}"
_KEY = r"[A-Za-z_][\w-]{0,127}"
_HEAD = re.compile(rf"({_NAME})\(\s*(?=\)|{_KEY}\s*=)")
_MAY_BECOME_HEAD = re.compile(rf"{_NAME}(?:\(\s*(?:{_KEY}\s*)?)?")
_PAIR = re.compile(rf"({_KEY})\s*=\s*(?=\S)")
_MAY_BECOME_PAIR = re.compile(rf"{_KEY}\s*(?:=\s*)?")
_BETWEEN = re.compile(r"[\s,]*")
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[^][\s{}():,\"']+")
_FREE = {"type", "title", "description", "default"}  # keywords that restrict no value of their type
_PYTHONS = {
    "boolean": '"True" | "False"',
    "null": '"None"',
    "string": r"/'(?:[^'\\\x00-\x1f]|\\[\\'\"nrt])*'/",
}


@dataclass(frozen=True, kw_only=True)
class PythonNotation(BlockNotation):
    """The rows are in `python_rows.py`."""

    bare_starts: str = "["

    def parser(self, new_id: NewId, tools: ToolSchemas) -> PythonParser:
        return PythonParser(self, new_id, tools)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        """One call. Of `schema` its properties are enforced, in their order."""
        properties, required, _ = members(schema, schema)
        definitions: Schema = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        pairs: list[tuple[str, bool]] = []
        for key, value in properties.items():
            if re.fullmatch(_KEY, key):
                pair = f"{grammar.literal(key)} {grammar.spaced(' = ')} {_value(grammar, value, definitions)}"
                pairs.append((grammar.rule(pair), key in required))
            elif key in required:
                raise UnenforceableSchemaError(f"this model cannot write a parameter named {key!r}")
        return f"{grammar.literal(f'{name}(')} {_arguments(grammar, pairs)} {grammar.literal(')')}"


def _arguments(grammar: GrammarBuilder, pairs: list[tuple[str, bool]]) -> str:
    """The pairs in their order, of which those that are not required may be missing."""
    begun, fresh = '""', '""'  # what may follow a pair, and what may follow none
    for pair, is_required in reversed(pairs):
        first = f"{pair} {begun}"
        fresh = first if is_required else f"({first} | {fresh})"
        rest = f"{grammar.spaced(', ')} {pair}"
        begun = grammar.rule(f"{rest if is_required else f'({rest})?'} {begun}")
    return fresh


def _value(grammar: GrammarBuilder, schema: Schema, definitions: Schema) -> str:
    """A value as JSON; also as Python writes constants, choices, and text that no rule restricts."""
    written = [grammar.json(schema | definitions)]
    if isinstance(schema.get("enum"), list):
        written += [grammar.literal(repr(choice)) for choice in schema["enum"]]
    elif schema.keys() <= _FREE:
        kinds = schema.get("type", [])
        written += [
            _PYTHONS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind in _PYTHONS
        ]
    return grammar.rule(" | ".join(written))


class PythonParser(BlockParser):
    """States within a block: pairs ⇄ value ⇄ string, pairs → block."""

    def __init__(self, notation: PythonNotation, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(notation, new_id, tools)
        self._tools = tools
        self._schema: Schema = {}
        self._kinds: Kinds = ANYTHING  # that the value may have
        self._quoted: str | None = None  # of text that is no text by its schema, the part read
        self._num_pairs = 0
        self._depth = 0  # brackets that are open within the value
        self._comma = False  # read within the value and not written: none stands before a closing bracket
        self._quote = ""

    def _end(self) -> None:
        if self._state == self._value and self._held.strip():
            self._emit_token(word_as_json(self._held.strip()))
        elif self._state == self._string:
            before = "" if self._quoted is None else f'"{self._quoted}'
            self._emit_arguments(before + escaped(self._held))
        elif self._state in {self._block, self._text}:
            super()._end()
        elif self._state == self._pairs:
            self._emit_arguments(self._held.strip(", \t\r\n"))

    def _item(self) -> bool | None:
        start = self._held[:MAX_HEAD_CHARS]
        head = _HEAD.match(start)
        if head and self._is_call(head[1]):
            self._start_call(head[1])
            self._emit_arguments("{")
            self._schema = self._tools.get(head[1], {})
            self._num_pairs = 0
            self._held = self._held[head.end() :]
            self._state = self._pairs
            return True
        may_become = not head and len(self._held) < MAX_HEAD_CHARS and _MAY_BECOME_HEAD.fullmatch(start)
        return False if may_become else None

    def _pairs(self) -> bool:
        start = _BETWEEN.match(self._held)
        self._held = self._held[start.end() if start else 0 :]
        if self._held.startswith(")"):
            self._held = self._held[1:]
            self._emit_arguments("}")
            self._end_call()
            self._state = self._block
            return True
        if pair := _PAIR.match(self._held[:MAX_HEAD_CHARS]):
            self._emit_arguments(f"{', ' if self._num_pairs else ''}{json.dumps(pair[1])}: ")
            self._num_pairs += 1
            self._held = self._held[pair.end() :]
            self._kinds = kinds_of(member_of(self._schema, pair[1], self._schema), self._schema)
            self._depth = 0
            self._comma = False
            self._state = self._value
            return True
        if not self._held or (len(self._held) < MAX_HEAD_CHARS and _MAY_BECOME_PAIR.fullmatch(self._held)):
            return False
        self._emit_arguments(self._held[:1])  # no argument: shown as it stands, and the next character tried
        self._held = self._held[1:]
        return bool(self._held)

    def _value(self) -> bool:
        space = _SPACE.match(self._held)
        self._held = self._held[space.end() if space else 0 :]
        if not self._held:
            return False
        sign = self._held[0]
        if sign in "\"'":
            is_other = self._kinds and "string" not in self._kinds and not self._depth
            self._quoted = "" if is_other else None
            self._emit_token("" if is_other else '"')
            self._quote = sign
            self._held = self._held[1:]
            self._state = self._string
        elif sign in SIGNS:
            if not self._depth and sign in ",)":
                self._state = self._pairs
                return True
            self._held = self._held[1:]
            self._sign(sign)
        else:
            return self._word()
        return True

    def _sign(self, sign: str) -> None:
        if sign == ",":
            self._comma = True
            return
        if sign in "}])":
            self._depth -= 1
            self._comma = False
        self._emit_token(SIGNS[sign] + (" " if sign == ":" else ""))
        if sign in "{[(":
            self._depth += 1

    def _word(self) -> bool:
        word = _WORD.match(self._held[: MAX_HEAD_CHARS + 1])
        size = word.end() if word else 1
        if size == len(self._held) and size < MAX_HEAD_CHARS:
            return False
        self._emit_token(word_as_json(self._held[:size]))
        self._held = self._held[size:]
        return True

    def _emit_token(self, text: str) -> None:
        self._emit_arguments(f", {text}" if self._comma else text)
        self._comma = False

    def _string(self) -> bool:
        size = whole_part(self._held, self._quote)
        self._emit_inside(escaped(self._held[:size]))
        self._held = self._held[size:]
        if not self._held.startswith(self._quote):
            return False
        self._held = self._held[1:]
        if self._quoted is None:
            self._emit_arguments('"')
        else:
            text = json.loads(f'"{self._quoted}"').encode(errors="replace").decode()
            self._emit_arguments(as_json(text, self._kinds))
        self._state = self._value
        return True

    def _emit_inside(self, text: str) -> None:
        if self._quoted is None:
            self._emit_arguments(text)
        else:
            self._quoted += text

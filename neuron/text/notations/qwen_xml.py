"""The notation of Qwen3-Coder and others: a function with its parameters as elements.

    <tool_call>
    <function=f>
    <parameter=city>
    Oslo
    </parameter>
    </function>
    </tool_call>

`<tool_call>` may be absent. Values become JSON by the tool's schema: text streams as it comes, anything else
is read as JSON once it is complete, and is text if it is not JSON. A block that names no function comes out
as text.
"""

from __future__ import annotations

import json
import re
from typing import Any

from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.markers import held_suffix
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import MAX_HEAD_CHARS, CallParser, NewId, ToolSchemas, loads
from neuron.text.schema import Schema

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"
_FUNCTION = re.compile(r"\s*<function=([^<>\n]+)>")
_MAY_BECOME_FUNCTION = re.compile(r"\s*(?:<(?:f(?:u(?:n(?:c(?:t(?:i(?:o(?:n(?:=[^<>\n]*)?)?)?)?)?)?)?)?)?)?")
_PARAMETER = re.compile(r"<parameter=([^<>\n]+)>")
_TEXT_RULES = {"pattern", "format", "minLength", "maxLength", "const"}
_MISSING = object()
_CONSTANTS = {"None": None, "null": None, "True": True, "False": False}  # models also write Python's


class QwenXmlNotation(Notation):
    def parser(self, new_id: NewId, tools: ToolSchemas) -> QwenXmlParser:
        return QwenXmlParser(new_id, tools)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        required = schema.get("required") or ()
        parts = [grammar.literal(f"{OPEN}\n{FUNCTION}{name}>\n")]
        for key, value in (schema.get("properties") or {}).items():
            head = grammar.literal(f"{PARAMETER}{key}>\n")
            parameter = f"{head} {_guided(grammar, value, schema)}"
            parts.append(parameter if key in required else f"({parameter})?")
        return " ".join([*parts, grammar.literal(f"{END_FUNCTION}\n{CLOSE}")])


def _guided(grammar: GrammarBuilder, value: Schema, root: Schema) -> str:
    """A parameter's value and its end. Text is unquoted here, so only `enum` of its rules can be enforced."""
    end = f"\n{END_PARAMETER}\n"
    if _kinds(value) != {"string"}:
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return f"{grammar.json(value | definitions)} {grammar.literal(end)}"
    if rules := sorted(value.keys() & _TEXT_RULES):
        raise UnenforceableSchemaError(
            f"this model writes text unquoted, where {rules[0]} cannot be enforced"
        )
    if choices := value.get("enum"):
        return f"({' | '.join(grammar.literal(str(choice)) for choice in choices)}) {grammar.literal(end)}"
    return grammar.anything_until(end)


class QwenXmlParser(CallParser):
    """States: text → function → parameters ⇄ value, parameters → close → text."""

    def __init__(self, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(new_id)
        self._tools = tools
        self._schema: Schema = {}
        self._opening = ""  # text if it becomes no call
        self._after_call = False
        self._num_parameters = 0
        self._kinds: set[Any] = set()
        self._is_text = False
        self._has_begun = False  # the value; its first line break belongs to the tag

    def _end(self) -> None:
        if self._state == self._function:
            self._emit_text(self._opening + self._held)
        elif self._state == self._text:
            self._emit_text(self._held.lstrip() if self._after_call else self._held)
        elif self._state == self._value:
            self._emit_value(self._held)
        elif self._state == self._parameters:
            self._emit_text(self._held.strip())
        elif self._held.strip() and not CLOSE.startswith(self._held.strip()):
            self._emit_text(self._held)

    def _text(self) -> bool:
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held
        places = [(at, marker) for marker in (OPEN, FUNCTION) if (at := self._held.find(marker)) >= 0]
        if not places:
            shown = self._held[: len(self._held) - held_suffix(self._held, (OPEN, FUNCTION))].rstrip()
            self._emit_text(shown)
            self._held = self._held[len(shown) :]
            return False
        at, marker = min(places)
        text = self._held[:at].rstrip()
        self._emit_text(text)
        has_open = marker == OPEN
        self._opening = self._held[len(text) : at] + (OPEN if has_open else "")
        self._held = self._held[at + (len(OPEN) if has_open else 0) :]
        self._state = self._function
        return True

    def _function(self) -> bool:
        start = self._held[:MAX_HEAD_CHARS]
        if head := _FUNCTION.match(start):
            self._begin(head[1])
            self._held = self._held[head.end() :]
            self._state = self._parameters
            return True
        if len(self._held) < MAX_HEAD_CHARS and _MAY_BECOME_FUNCTION.fullmatch(start):
            return False
        # No call: what opened it is text, and what follows is read again.
        if not self._opening.endswith(OPEN):
            self._opening = self._opening + self._held[:1]
            self._held = self._held[1:]
        self._emit_text(self._opening)
        self._state = self._text
        return True

    def _begin(self, name: str) -> None:
        self._start_call(name)
        self._after_call = True
        self._schema = self._tools.get(name, {}).get("properties") or {}
        self._num_parameters = 0

    def _parameters(self) -> bool:
        self._held = self._held.lstrip()
        if head := _PARAMETER.match(self._held[:MAX_HEAD_CHARS]):
            self._open_value(head[1])
            self._held = self._held[head.end() :]
            self._state = self._value
            return True
        if self._held.startswith(END_FUNCTION):
            self._emit_arguments("{}" if not self._num_parameters else "}")
            self._end_call()
            self._held = self._held[len(END_FUNCTION) :]
            self._state = self._close
            return True
        is_start = END_FUNCTION.startswith(self._held) or PARAMETER.startswith(self._held)
        if is_start or (
            self._held.startswith(PARAMETER) and len(self._held) < MAX_HEAD_CHARS and "\n" not in self._held
        ):
            return False
        self._emit_text(self._held[:1])  # not a parameter: text, and the next character is tried
        self._held = self._held[1:]
        return bool(self._held)

    def _open_value(self, name: str) -> None:
        before = ", " if self._num_parameters else "{"
        self._num_parameters += 1
        self._emit_arguments(f"{before}{json.dumps(name, ensure_ascii=False)}: ")
        self._kinds = _kinds(self._schema.get(name))
        self._is_text = self._kinds == {"string"}
        self._has_begun = False
        if self._is_text:
            self._emit_arguments('"')

    def _value(self) -> bool:
        if not self._has_begun and self._held:
            self._held = self._held.removeprefix("\n")
            self._has_begun = True
        value, marker, rest = self._held.partition(END_PARAMETER)
        if marker:
            self._emit_value(value.removesuffix("\n"), is_whole=True)
            self._held = rest
            self._state = self._parameters
            return True
        if self._is_text:
            shown = len(self._held) - held_suffix(self._held, ("\n" + END_PARAMETER, END_PARAMETER))
            self._emit_value(self._held[:shown])
            self._held = self._held[shown:]
        return False

    def _emit_value(self, text: str, *, is_whole: bool = False) -> None:
        if self._is_text:
            self._emit_arguments(json.dumps(text, ensure_ascii=False)[1:-1] + ('"' if is_whole else ""))
            return
        self._emit_arguments(_as_json(text, self._kinds) if is_whole else text)

    def _close(self) -> bool:
        rest = self._held.lstrip()
        if CLOSE.startswith(rest) and rest != CLOSE:
            return False
        self._held = rest.removeprefix(CLOSE)
        self._state = self._text
        return True


def _kinds(schema: Any) -> set[Any]:
    """The JSON types that a schema allows; empty when it leaves them open."""
    if not isinstance(schema, dict):
        return set()
    kinds = schema.get("type", [])
    found = set(kinds) if isinstance(kinds, list) else {kinds}
    for alternative in [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]:
        found |= _kinds(alternative)
    return found


def _as_json(text: str, kinds: set[Any]) -> str:
    value = _CONSTANTS.get(text.strip(), _MISSING)
    if value is _MISSING:
        value = loads(text)
        value = _MISSING if value is None else value
    is_text = value is _MISSING or ("string" in kinds and value is not None)
    return json.dumps(text if is_text else value, ensure_ascii=False)

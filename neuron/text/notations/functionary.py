"""Functionary 3.2's notation: every part of an answer has a recipient, and the first `>>>` is in the prompt.

    all
    Let me see.>>>get_weather
    {"city": "Oslo"}>>>get_time
    {}

Only names of the request's own tools are recipients; any other `>>>` is text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from neuron.text.grammar import GrammarBuilder
from neuron.text.markers import MarkerSet
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import CallParser, JsonScanner, NewId, ToolSchemas
from neuron.text.schema import Schema

SIGN, ALL = ">>>", "all"


@dataclass(frozen=True, kw_only=True)
class FunctionaryNotation(Notation):
    is_opened: bool = False  # whether the prompt ends in the sign

    def answering(self, prompt: str) -> Notation:
        return replace(self, is_opened=prompt.rstrip().endswith(SIGN))

    def parser(self, new_id: NewId, tools: ToolSchemas) -> FunctionaryParser:
        return FunctionaryParser(new_id, tools)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        return " ".join([grammar.literal(f"{name}\n"), grammar.json(schema)])

    def between(self, grammar: GrammarBuilder) -> str:
        return grammar.literal(SIGN)

    def content(self, grammar: GrammarBuilder, body: str) -> str:
        return " ".join([grammar.literal(f"{ALL}\n"), body])

    def enclose(self, grammar: GrammarBuilder, calls: str) -> str:
        return f"{grammar.literal(SIGN)}{'?' if self.is_opened else ''} {calls}"


class FunctionaryParser(CallParser):
    """States: start → (text ⇄ arguments)."""

    def __init__(self, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(new_id)
        self._heads = MarkerSet(f"{name}\n" for name in (ALL, *tools))
        self._signs = MarkerSet([SIGN])
        self._in_text = MarkerSet(f"{SIGN}{name}\n" for name in (ALL, *tools))
        self._scanner = JsonScanner()
        self._opening = ""  # text if it becomes no call
        self._name = ""
        self._after_call = False
        self._state = self._start

    def _start(self) -> bool:
        """What follows the prompt's `>>>`."""
        text = self._held.removeprefix(SIGN)
        if head := self._heads.match(text):
            self._open(head[0], text[head.end() :])
            return True
        if self._heads.may_become(text) or self._signs.may_become(self._held):
            return False
        self._state = self._text
        return True

    def _open(self, head: str, rest: str) -> None:
        self._held = rest
        self._opening = head
        self._name = head.removesuffix("\n")
        self._after_call = False
        self._state = self._text if self._name == ALL else self._brace

    def _text(self) -> bool:
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held
        end, found = self._in_text.find(self._held)
        text = self._held[:end].rstrip()
        self._emit_text(text)
        self._held = self._held[len(text) :]
        if found:
            size = found.end() - len(text)
            self._open(found[0].removeprefix(SIGN), self._held[size:])
            self._opening = found[0]
        return found is not None

    def _brace(self) -> bool:
        """Behind a tool's name: arguments, or else all of it was text."""
        start = self._held.lstrip()
        if not start:
            return False
        if start[0] == "{":
            self._held = start
            self._start_call(self._name)
            self._scanner = JsonScanner()
            self._state = self._arguments
        else:
            self._emit_malformed(self._opening)
            self._state = self._text
        return True

    def _arguments(self) -> bool:
        is_over = self._stream_arguments(self._scanner)
        if is_over:
            self._after_call = True
            self._state = self._text
        return is_over

    def _end(self) -> None:
        if self._state == self._arguments:
            self._emit_arguments(self._held)
        elif self._state == self._brace:
            self._emit_malformed(self._opening + self._held)
        else:
            self._emit_text(self._held.lstrip() if self._after_call else self._held)

"""The notation of Hermes, also Qwen's: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.

Once the head `{"name": "…", "arguments": {` is read, the call starts and its arguments pass through as they
are written. A block with its keys in another order is read as a whole at its end. A block that is no call
comes out as text, markers included, and so does what follows the arguments without belonging to the call.
White space around calls is dropped.

The JSON of the arguments is followed for its structure only: the client gets every character, and decides
whether they fit the tool.
"""

from __future__ import annotations

import json
import re

from neuron.text.grammar import GrammarBuilder
from neuron.text.markers import held_suffix
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import (
    JSON_HEAD,
    MAX_HEAD_CHARS,
    CallParser,
    JsonScanner,
    NewId,
    ToolSchemas,
    is_rest_of_object,
    loads,
    read_call,
)
from neuron.text.schema import Schema

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_TAIL = re.compile(r"\s*\}\s*")


class HermesNotation(Notation):
    def fits(self, template: str) -> bool:
        return OPEN in template and "<function=" not in template and "<arg_key>" not in template

    def parser(self, new_id: NewId, tools: ToolSchemas) -> HermesParser:
        return HermesParser(new_id)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        head = f'\n{{"name": {json.dumps(name)}, "arguments": '
        tail = f"}}\n{CLOSE}"
        return f"{grammar.literal(OPEN + head)} {grammar.json(schema)} {grammar.literal(tail)}"


class HermesParser(CallParser):
    """States: text → head → arguments → tail → text."""

    def __init__(self, new_id: NewId) -> None:
        super().__init__(new_id)
        self._before = ""  # white space before the open block: text again if the block is no call
        self._searched = 0  # how far the end of the block was looked for
        self._after_call = False
        self._scanner = JsonScanner()

    def _end(self) -> None:
        held = self._held
        if self._state == self._head:
            self._block(held, close="")
        elif self._state == self._text:
            self._emit_text(held.lstrip() if self._after_call else held)
        elif self._state == self._tail and not _ends_call(held):
            self._emit_text(held)
        elif self._state == self._arguments:
            self._emit_arguments(held)

    def _text(self) -> bool:
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held
        before, marker, rest = self._held.partition(OPEN)
        if marker:
            text = before.rstrip()
            self._emit_text(text)
            self._before = before[len(text) :]
            self._held = rest
            self._searched = 0
            self._state = self._head
            return True
        shown = self._held[: len(self._held) - held_suffix(self._held, (OPEN,))].rstrip()
        self._emit_text(shown)
        self._held = self._held[len(shown) :]
        return False

    def _head(self) -> bool:
        if self._searched < MAX_HEAD_CHARS and (head := JSON_HEAD.match(self._held[:MAX_HEAD_CHARS])):
            name = loads(head[1])
            if isinstance(name, str):
                self._start_call(name)
                self._held = self._held[head.end() :]
                self._scanner = JsonScanner()
                self._state = self._arguments
                return True
        at = self._held.find(CLOSE, max(0, self._searched - len(CLOSE)))
        self._searched = len(self._held)
        if at < 0:
            return False
        block, self._held = self._held[:at], self._held[at + len(CLOSE) :]
        self._block(block, close=CLOSE)
        self._state = self._text
        return True

    def _arguments(self) -> bool:
        is_over = self._stream_arguments(self._scanner)
        if is_over:
            self._state = self._tail
        return is_over

    def _tail(self) -> bool:
        if self._held.lstrip().startswith(","):  # further keys: read up to the end of the block
            at = self._held.find(CLOSE)
            if at < 0:
                return False
            tail, self._held = self._held[:at], self._held[at + len(CLOSE) :]
            self._emit_text("" if _ends_call(tail) else tail + CLOSE)
            self._state = self._text
            return True
        brace = _TAIL.match(self._held)
        if not brace and not self._held.strip():
            return False
        rest = self._held[brace.end() :] if brace else self._held
        if brace and CLOSE.startswith(rest):
            if rest != CLOSE:
                return False
            self._held = ""
        elif brace and rest.startswith(CLOSE):
            self._held = rest[len(CLOSE) :]
        elif brace:
            self._held = self._held[self._held.index("}") + 1 :]
        self._state = self._text
        return bool(self._held)

    def _block(self, block: str, *, close: str) -> None:
        if call := read_call(block):
            self._whole_call(call)
        else:
            self._emit_text(f"{self._before}{OPEN}{block}{close}")

    def _start_call(self, name: str) -> None:
        super()._start_call(name)
        self._after_call = True


def _ends_call(tail: str) -> bool:
    """Whether `tail` may stand between a call's arguments and its closing marker."""
    text = tail.rstrip()
    return (
        not text or (text.startswith("}") and CLOSE.startswith(text[1:].lstrip())) or is_rest_of_object(text)
    )

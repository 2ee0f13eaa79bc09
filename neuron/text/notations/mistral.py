"""Mistral's notation: `[TOOL_CALLS]` and a list of calls, or, since tokenizer 11, names and arguments.

    [TOOL_CALLS][{"name": "f", "arguments": {…}}, …]
    [TOOL_CALLS]f[CALL_ID]123456789[ARGS]{…}[TOOL_CALLS]g[ARGS]{…}      ([CALL_ID] and [ARGS] may be absent)

Text after the marker that is no call comes out as text, the marker included.
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
    State,
    ToolSchemas,
    is_rest_of_object,
    loads,
    read_call,
)
from neuron.text.schema import Schema

MARKERS = OPEN, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAMED_HEAD = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*[\w-]*\s*)?(?:\[ARGS\]\s*)?(?=\{)")
_MAY_BECOME_HEAD = re.compile(r"\s*[\w.-]*\s*(?:\[[\w\]\s-]*)*")


class MistralNotation(Notation):
    def fits(self, template: str) -> bool:
        return OPEN in template

    def parser(self, new_id: NewId, tools: ToolSchemas) -> MistralParser:
        return MistralParser(new_id)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        if grammar.knows(ARGS):
            return f"{grammar.literal(OPEN + name + ARGS)} {grammar.json(schema)}"
        head = f'{OPEN}[{{"name": {json.dumps(name)}, "arguments": '
        return f"{grammar.literal(head)} {grammar.json(schema)} {grammar.literal('}]')}"

    def between(self, grammar: GrammarBuilder) -> str:
        return ""


class MistralParser(CallParser):
    """States: text → opened → (arguments → text | item → item_arguments → item_tail → item …)."""

    def __init__(self, new_id: NewId) -> None:
        super().__init__(new_id)
        self._scanner = JsonScanner()
        self._scanned = 0
        self._opening = OPEN  # read since the last call; text if it becomes no call

    def _end(self) -> None:
        if self._state == self._arguments or self._state == self._item_arguments:
            self._emit_arguments(self._held)
        elif self._state == self._item_tail:
            self._emit_text("" if self._held.strip() in {"", "}"} else self._held)
        elif self._state == self._item:
            self._emit_text(self._opening + (self._held if self._held.strip() else ""))
        elif self._state == self._opened:
            self._emit_text(OPEN + self._held)
        else:
            self._emit_text(self._held)

    def _text(self) -> bool:
        before, marker, rest = self._held.partition(OPEN)
        if marker:
            self._emit_text(before)
            self._held = rest
            self._state = self._opened
            return True
        shown = len(self._held) - held_suffix(self._held, (OPEN,))
        self._emit_text(self._held[:shown])
        self._held = self._held[shown:]
        return False

    def _opened(self) -> bool:
        start = self._held[:MAX_HEAD_CHARS]
        if start.lstrip().startswith("["):
            white, _, self._held = self._held.partition("[")
            self._opening = f"{OPEN}{white}["
            self._state = self._begin_item()
            return True
        if head := _NAMED_HEAD.match(start):
            self._start_call(head[1])
            self._held = self._held[head.end() :]
            self._scanner = JsonScanner()
            self._state = self._arguments
            return True
        if len(self._held) < MAX_HEAD_CHARS and _MAY_BECOME_HEAD.fullmatch(self._held):
            return False
        self._emit_text(OPEN)
        self._state = self._text
        return True

    def _arguments(self) -> bool:
        is_over = self._stream_arguments(self._scanner)
        if is_over:
            self._state = self._text
        return is_over

    # --- a list of calls ------------------------------------------------------------------------------

    def _begin_item(self) -> State:
        self._scanner = JsonScanner()
        self._scanned = 0
        return self._item

    def _item(self) -> bool:
        if not self._scanned:
            start = self._held.lstrip(" \t\r\n,")
            if start.startswith("]") and not self._opening:
                self._held = start[1:]
                self._state = self._text
                return True
            if start and not start.startswith("{"):
                self._emit_text(self._opening)
                self._state = self._text
                return True
        if head := self._item_head():
            self._opening = ""
            self._start_call(loads(head[1]))
            self._held = self._held[head.end() :]
            self._scanner = JsonScanner()
            self._state = self._item_arguments
            return True
        return self._whole_item()

    def _item_head(self) -> re.Match[str] | None:
        start = self._held[:MAX_HEAD_CHARS]
        head = JSON_HEAD.match(start, len(start) - len(start.lstrip(" \t\r\n,")))
        return head if head and isinstance(loads(head[1]), str) else None

    def _whole_item(self) -> bool:
        size, is_over = self._scanner.take(self._held[self._scanned :])
        self._scanned += size
        if not is_over:
            return False
        item, self._held = self._held[: self._scanned], self._held[self._scanned :]
        if call := read_call(item.lstrip(" \t\r\n,")):
            self._opening = ""
            self._whole_call(call)
            self._state = self._begin_item()
        else:
            self._emit_text(self._opening + item)
            self._state = self._text
        return True

    def _item_arguments(self) -> bool:
        is_over = self._stream_arguments(self._scanner)
        if is_over:
            self._scanner = JsonScanner(1)
            self._scanned = 0
            self._state = self._item_tail
        return is_over

    def _item_tail(self) -> bool:
        """The end of the item's object; further keys are dropped."""
        size, is_over = self._scanner.take(self._held[self._scanned :])
        self._scanned += size
        if not is_over:
            return False
        tail, self._held = self._held[: self._scanned], self._held[self._scanned :]
        self._emit_text("" if is_rest_of_object(tail) else tail)
        self._state = self._begin_item()
        return True

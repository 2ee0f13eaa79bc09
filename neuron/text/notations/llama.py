"""Llama 3's notation: the whole answer is `{"name": …, "parameters": {…}}`, or several joined by `;`.

`<|python_tag|>` may precede a call. JSON that names none of the request's tools is an answer, not a call.
"""

from __future__ import annotations

import json
import re

from neuron.text.grammar import GrammarBuilder
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

PYTHON_TAG = "<|python_tag|>"
_BEFORE = re.compile(r"[\s;]*(?:<\|python_tag\|>[\s;]*)?")


class LlamaNotation(Notation):
    def fits(self, template: str) -> bool:
        return PYTHON_TAG in template or ("<|start_header_id|>" in template and '"parameters"' in template)

    def parser(self, new_id: NewId, tools: ToolSchemas) -> LlamaParser:
        return LlamaParser(new_id, tools)

    def opener(self) -> str:
        return "{"

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        head = f'{{"name": {json.dumps(name)}, "parameters": '
        return f"{grammar.literal(head)} {grammar.json(schema)} {grammar.literal('}')}"

    def between(self, grammar: GrammarBuilder) -> str:
        return grammar.literal("; ")


class LlamaParser(CallParser):
    """States: text (before a call) → (arguments → tail | object) → text … → plain, which is the end."""

    def __init__(self, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(new_id)
        self._names = tools.keys()
        self._before = ""
        self._scanner = JsonScanner()
        self._scanned = 0

    def _end(self) -> None:
        if self._state == self._arguments:
            self._emit_arguments(self._held)
        elif self._state == self._tail:
            self._emit_text("" if self._held.strip() in {"", "}"} else self._held)
        elif self._state == self._text and self._num_calls and not self._held.strip(" \t\r\n;"):
            pass
        else:
            self._emit_text(self._before + self._held)

    def _text(self) -> bool:
        before = _BEFORE.match(self._held[:MAX_HEAD_CHARS])
        assert before
        rest = self._held[before.end() :]
        if rest.startswith("{"):
            self._before = before[0]
            self._held = rest
            self._scanner = JsonScanner()
            self._scanned = 0
            self._state = self._object
            return True
        if PYTHON_TAG.startswith(rest) and len(self._held) < MAX_HEAD_CHARS:
            return False
        self._state = self._plain
        return True

    def _object(self) -> bool:
        head = JSON_HEAD.match(self._held[:MAX_HEAD_CHARS])
        if head and loads(head[1]) in self._names:
            self._start_call(loads(head[1]))
            self._before = ""
            self._held = self._held[head.end() :]
            self._scanner = JsonScanner()
            self._state = self._arguments
            return True
        size, is_over = self._scanner.take(self._held[self._scanned :])
        self._scanned += size
        if not is_over:
            return False
        call = read_call(self._held[: self._scanned])
        if call and call[0] in self._names:
            self._before = ""
            self._held = self._held[self._scanned :]
            self._whole_call(call)
            self._state = self._text
        else:
            self._state = self._plain
        return True

    def _arguments(self) -> bool:
        is_over = self._stream_arguments(self._scanner)
        if is_over:
            self._scanner = JsonScanner(1)
            self._scanned = 0
            self._state = self._tail
        return is_over

    def _tail(self) -> bool:
        size, is_over = self._scanner.take(self._held[self._scanned :])
        self._scanned += size
        if not is_over:
            return False
        tail, self._held = self._held[: self._scanned], self._held[self._scanned :]
        self._emit_text("" if is_rest_of_object(tail) else tail)
        self._state = self._text
        return True

    def _plain(self) -> bool:
        self._emit_text(self._before + self._held)
        self._before = self._held = ""
        return False

"""Calls as JSON: `{"name": …, "arguments": {…}}` behind a marker, or a name and then its arguments.

Once a call's head is read its arguments pass through as they are written: their JSON is followed for its
structure only, and the client decides whether they fit the tool. An object whose keys stand in another order
is read as a whole at its end, as are Python's dictionaries, doubled braces, and a call within a call
(`{"function": {…}}`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property

from neuron.text.grammar import GrammarBuilder
from neuron.text.notations.blocks import BlockNotation, BlockParser
from neuron.text.notations.heads import CallHead
from neuron.text.notations.json_call import JSON_HEAD, KEYED_HEAD, may_be_call, read_call, read_keyed_call
from neuron.text.notations.parser import (
    MAX_HEAD_CHARS,
    JsonScanner,
    NewId,
    ToolSchemas,
    is_rest_of_object,
    loads,
)
from neuron.text.schema import Schema


@dataclass(frozen=True, kw_only=True)
class JsonNotation(BlockNotation):
    """The rows are in `json_rows.py`.

    `heads` are the ways to write a call's name before its arguments (`CallHead`); the grammar takes the
    first. Without them a call is an object. In the grammar `before` and `after` stand around each call;
    `first` and `last` are members of its object, as regular expressions, that may stand before the name and
    behind the arguments.
    """

    heads: tuple[str, ...] = ()
    writes_objects: bool = False  # whether the grammar takes objects although there are heads
    name_key: str = "name"
    arguments_key: str = "arguments"
    is_keyed: bool = False  # whether calls are {"NAME": {arguments}}
    before: str = ""
    after: str = ""
    first: str = ""
    last: str = ""

    def parser(self, new_id: NewId, tools: ToolSchemas) -> JsonParser:
        return JsonParser(self, new_id, tools)

    @cached_property
    def read_heads(self) -> tuple[CallHead, ...]:
        return tuple(map(CallHead, self.heads))

    @cached_property
    def may_become_head(self) -> re.Pattern[str]:
        """A beginning of any of the heads."""
        return re.compile("|".join(head.beginning for head in self.read_heads) or "(?!)")

    # --- the grammar ----------------------------------------------------------------------------------

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        body = self._body(grammar, name, schema)
        return f"{grammar.spaced(self.before)} {body} {grammar.spaced(self.after)}"

    def _body(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        if self.heads and not self.writes_objects:
            return f"{self.read_heads[0].written(grammar, name)} {grammar.json(schema)}"
        return self.object_of(grammar, name, schema)

    def object_of(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        """A call as an object."""
        if self.is_keyed:
            return (
                f"{grammar.spaced(f'{{ {json.dumps(name)} : ')} {grammar.json(schema)} {grammar.spaced(' }')}"
            )
        first = f"({grammar.terminal(f'/{self.first}, ?/')})?" if self.first else ""
        last = f"({grammar.terminal(f'/, ?{self.last}/')})?" if self.last else ""
        head = grammar.spaced(f'"{self.name_key}" : {json.dumps(name)} , "{self.arguments_key}" : ')
        tail = grammar.spaced(" }")
        return " ".join(filter(None, (grammar.spaced("{ "), first, head, grammar.json(schema), last, tail)))


class JsonParser(BlockParser):
    """States within a block: object → (arguments → tail → further | passed), or arguments behind a head."""

    def __init__(self, notation: JsonNotation, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(notation, new_id, tools)
        self._row = notation
        self._head = KEYED_HEAD if notation.is_keyed else JSON_HEAD
        self._read = read_keyed_call if notation.is_keyed else read_call
        self._scanner = JsonScanner()
        self._scanned = 0
        self._in_object = False  # whether the arguments are a member of the call's object

    def _end(self) -> None:
        if self._state == self._arguments:
            self._emit_arguments(self._held)
        elif self._state in {self._tail, self._further}:
            self._emit_text("" if self._held.strip() in {"", "}"} else self._held)
        elif self._state == self._object:
            self._give_up()
            self._emit_text(self._held)
        else:
            super()._end()

    def _item(self) -> bool | None:
        if self._held[0] == "{":
            self._scanner = JsonScanner(has_apostrophes=True)
            self._scanned = 0
            self._state = self._object
            return True
        start = self._held[:MAX_HEAD_CHARS]
        for head in self._row.read_heads if "{" in start else ():
            if found := head.whole.match(start):
                self._begin(found["name"], found.end(), found.groupdict().get("number"))
                self._in_object = False
                return True
        may_become = len(self._held) < MAX_HEAD_CHARS and self._row.may_become_head.fullmatch(start)
        return False if may_become else None

    def _begin(self, name: str, end: int, number: str | None = None) -> None:
        self._start_call(name, None if number is None else int(number))
        self._held = self._held[end:]
        self._scanner = JsonScanner()
        self._state = self._arguments

    # --- an object --------------------------------------------------------------------------------------

    def _object(self) -> bool:
        if self._scanned < MAX_HEAD_CHARS:
            start = self._held[:MAX_HEAD_CHARS]
            if (head := self._head.match(start)) and self._is_call(name := loads(head[1])):
                self._begin(name, head.end())
                self._in_object = True
                return True
            if head or not (self._row.is_keyed or may_be_call(start)):
                return self._no_call()
        size, is_over = self._scanner.take(self._held[self._scanned :])
        self._scanned += size
        if not is_over:
            return False
        call = self._read(self._held[: self._scanned])
        if call is None or not self._is_call(call[0]):
            return self._no_call()
        self._held = self._held[self._scanned :]
        self._whole_call(call)
        self._state = self._block
        return True

    def _no_call(self) -> bool:
        """The object is text, whatever stands in it."""
        self._give_up()
        self._scanner = JsonScanner()
        self._state = self._passed
        return True

    def _passed(self) -> bool:
        size, is_over = self._scanner.take(self._held)
        self._emit_text(self._held[:size])
        self._held = self._held[size:]
        if is_over:
            self._state = self._text
        return is_over

    # --- arguments --------------------------------------------------------------------------------------

    def _arguments(self) -> bool:
        is_over = self._stream_arguments(self._scanner)
        if is_over:
            self._state = self._tail if self._in_object else self._block
        return is_over

    def _tail(self) -> bool:
        """The end of the call's object. Its brace may be missing."""
        self._held = self._held.lstrip()
        if not self._held:
            return False
        if self._held[0] == ",":
            self._scanner = JsonScanner(1)
            self._scanned = 0
            self._state = self._further
            return True
        self._held = self._held.removeprefix("}")
        self._state = self._block
        return True

    def _further(self) -> bool:
        """Further members of the call's object, which are dropped."""
        size, is_over = self._scanner.take(self._held[self._scanned :])
        self._scanned += size
        if not is_over:
            return False
        tail, self._held = self._held[: self._scanned], self._held[self._scanned :]
        if is_rest_of_object(tail):
            self._state = self._block
        else:
            self._emit_text(tail)
            self._state = self._text
        return True

"""What a family writes between a call's opener and its arguments, as text with fields in it.

    function<sep>{name}        functions.{name}:{number}<|tool_call_argument_begin|>

White space stands for any, none included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from neuron.text.grammar import GrammarBuilder
from neuron.text.markers import beginning_of

_PARTS = re.compile(r"\{(?P<field>name|id|number)\}|(?P<space>\s+)|(?P<text>[^{\s]+)")
_FIELDS = {"name": r"[^\s<>{}\[\]\"'|]{1,128}", "id": r"[\w-]{0,64}", "number": r"\d{1,9}"}
_WRITTEN = {"id": "/[0-9A-Za-z]{9}/", "number": "/0|[1-9][0-9]{0,3}/"}


@dataclass(frozen=True)
class CallHead:
    """One way to write a call's name before its arguments."""

    text: str

    @cached_property
    def whole(self) -> re.Pattern[str]:
        """The head, up to the arguments' brace; its fields are groups."""
        written = [
            rf"(?P<{field}>{_FIELDS[field]})" if field else r"\s*" if space else re.escape(text)
            for field, space, text in self._parts()
        ]
        return re.compile("".join(written) + r"\s*(?=\{)")

    @cached_property
    def beginning(self) -> str:
        """A regular expression of what may become the head."""
        parts: list[str] = []
        for field, space, text in self._parts():
            parts += [_FIELDS[field]] if field else [r"\s*"] if space else map(re.escape, text)
        return beginning_of([*parts, r"\s*"])

    def written(self, grammar: GrammarBuilder, name: str) -> str:
        """The head of a call of `name`, as an expression of the grammar."""
        found = [
            grammar.terminal(_WRITTEN[field])
            if field in _WRITTEN
            else grammar.spaced(name if field else space or text)
            for field, space, text in self._parts()
        ]
        return " ".join(found) or '""'

    def _parts(self) -> Iterator[tuple[str, str, str]]:
        """Field, white space or text, the other two empty."""
        for part in _PARTS.finditer(self.text):
            yield part["field"] or "", part["space"] or "", part["text"] or ""

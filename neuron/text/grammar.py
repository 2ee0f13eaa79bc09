"""Grammars in llguidance's dialect of Lark, built piece by piece.

Markers that are tokens of their own are named by id. Free text cannot hold them, so that a thought ends where
the model closes it and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from neuron.text.schema import Schema, grammar_source

_ANYTHING = "/(?s:.*)/"


class UnenforceableSchemaError(Exception):
    """A schema that no grammar in the model's notation of calls can enforce; the message says why."""


class GrammarBuilder:
    """A Lark text under construction. Each method returns an expression for the rules that are built on it.

    `added` maps the markers that are tokens of their own to their ids.
    """

    def __init__(self, added: Mapping[str, int]) -> None:
        self._added = added
        longest_first = sorted(added, key=len, reverse=True)
        self._markers = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._rules: list[str] = []

    def knows(self, marker: str) -> bool:
        """Whether `marker` is a token of its own."""
        return marker in self._added

    def literal(self, text: str) -> str:
        """Exactly `text`."""
        parts: list[str] = []
        at = 0
        for found in self._markers.finditer(text):
            parts += [json.dumps(text[at : found.start()]), f"<[{self._added[found[0]]}]>"]
            at = found.end()
        parts.append(json.dumps(text[at:]))
        return " ".join(part for part in parts if part != '""') or '""'

    def rule(self, body: str, attributes: str = "") -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name

    def terminal(self, body: str) -> str:
        name = f"T{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def json(self, schema: Schema) -> str:
        """A JSON value that follows `schema`."""
        return self.rule(f"%json {grammar_source(schema)}")

    def anything_until(self, marker: str) -> str:
        """Free text and the marker that ends it."""
        if token := self._markers.search(marker):  # free text cannot hold it
            text = f"/(?s:.*){_escaped(marker[: token.start()])}/"
            return f"{self.terminal(text)} {self.literal(marker[token.start() :])}"
        return self.rule(_ANYTHING, f"[suffix={json.dumps(marker)}]")

    def anything_without(self, marker: str) -> str:
        """At least a character of free text without `marker` in it.

        A marker of one character is forbidden at the very beginning only.
        """
        if len(marker) == 1:
            return self.terminal(f"/[^{re.escape(marker)}](?s:.*)/")
        if self._markers.match(marker):
            return self.terminal("/(?s:.+)/")
        return self.terminal(f"/(?s:.+)/ & ~/(?s:.*){_escaped(marker)}(?s:.*)/")

    def text(self, start: str) -> str:
        """The whole grammar, which begins with `start`."""
        return "\n".join([f"start: {start}", *self._rules])


def _escaped(text: str) -> str:
    """`text` as part of a regular expression between slashes."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")

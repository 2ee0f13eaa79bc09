"""Grammars in llguidance's dialect of Lark, built piece by piece.

Markers that are tokens of their own are named by id. Free text cannot hold them, so that a thought ends where
the model closes it and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from neuron.text.markers import any_of
from neuron.text.schema import Schema, grammar_source

_ANYTHING = "/(?s:.*)/"
_SPACE = r"/[ \n]{0,40}/"


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
        self._space = ""  # the terminal's name

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

    def spaced(self, text: str) -> str:
        """`text`, of whose white space any may be left out and some be added."""
        parts = [part if part.strip() else self.space() for part in re.split(r"(\s+)", text) if part]
        return " ".join(part if part == self._space else self.literal(part) for part in parts) or '""'

    def space(self) -> str:
        """Room for pretty printing, which may be left out."""
        self._space = self._space or self.terminal(_SPACE)
        return self._space

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
            text = f"/(?s:.*){_slashed(re.escape(marker[: token.start()]))}/"
            return f"{self.terminal(text)} {self.literal(marker[token.start() :])}"
        return self.rule(_ANYTHING, f"[suffix={json.dumps(marker)}]")

    def anything_without(self, markers: Iterable[str], line_starts: str = "") -> str:
        """At least a character of free text without `markers`, and without lines that begin with line starts.

        `line_starts` are single characters; white space may stand before them.
        """
        text = [marker for marker in markers if marker and not self._markers.match(marker)]
        forbidden = [f"(?s:.*)({_slashed(any_of([marker]))})(?s:.*)" for marker in text]
        if line_starts:
            forbidden.append(rf"(?s:(.*\n)?)[ \t]*[{re.escape(line_starts)}](?s:.*)")
        return self.terminal(" & ".join(["/(?s:.+)/", *(f"~/{rule}/" for rule in forbidden)]))

    def text(self, start: str) -> str:
        """The whole grammar, which begins with `start`."""
        return "\n".join([f"start: {start}", *self._rules])


def _slashed(expression: str) -> str:
    """A regular expression as it stands between slashes."""
    return expression.replace("/", r"\/").replace("\\\n", r"\n")

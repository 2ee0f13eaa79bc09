"""What an answer must look like, as a grammar in llguidance's dialect of Lark.

A grammar describes the whole answer: the thought before it, where the model thinks, then text that follows a
schema, tool calls in the model's own notation, or both. Marks that are tokens of their own are named by id;
free text cannot hold them, so a thought ends where the model closes it and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from neuron.text.reasoning import ReasoningMarkers

if TYPE_CHECKING:
    from neuron.text.notations.notation import ToolNotation

Schema = dict[str, Any]
ANY_OBJECT: Schema = {"type": "object"}
MAX_CHECKED = 256  # schemas whose verdict is remembered

# Room for pretty printing, but none to go on for ever.
_SPACING = {"x-guidance": {"whitespace_pattern": r"[ ]?|\n[ ]{0,32}"}}
_GAP = r"/[ \n]{0,4}/"  # between a thought and the answer
_ANYTHING = "/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class AnswerConstraint:
    """What a request asks for. `calls` are the tools that may be called, each with its arguments' schema."""

    content: Schema | None = None  # None: free text
    calls: Sequence[tuple[str, Schema]] = ()
    must_call: bool = False
    is_parallel: bool = True


class UnenforceableSchemaError(Exception):
    """A schema that this model's notation of calls cannot be held to; the message says why."""


class GrammarBuilder:
    """A Lark text under construction; `added` are the tokens that stand apart from text, by what they say."""

    def __init__(self, added: Mapping[str, int]) -> None:
        self._added = added
        longest_first = sorted(added, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._rules: list[str] = []

    def knows(self, mark: str) -> bool:
        return mark in self._added

    def literal(self, text: str) -> str:
        """Exactly `text`."""
        parts, at = [], 0
        for found in self._marks.finditer(text):
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
        return self.rule(f"%json {json.dumps(schema | _SPACING)}")

    def anything_until(self, mark: str) -> str:
        """Free text and the mark that ends it."""
        if self.knows(mark):
            return f"{self.terminal(_ANYTHING)} {self.literal(mark)}"
        return self.rule(_ANYTHING, f"[suffix={json.dumps(mark)}]")

    def anything_without(self, mark: str) -> str:
        """Free text, at least a character, in which `mark` does not occur, nor anything that stands apart."""
        if len(mark) == 1:  # a mark only at the very beginning
            return self.terminal(f"/[^{re.escape(mark)}](?s:.*)/")
        if self._marks.match(mark):
            return self.terminal("/(?s:.+)/")
        return self.terminal(f"/(?s:.+)/ & ~/(?s:.*){_escaped(mark)}(?s:.*)/")

    def text(self, start: str) -> str:
        return "\n".join([f"start: {start}", *self._rules])


def answer_grammar(
    wish: AnswerConstraint,
    *,
    added: Mapping[str, int],
    format: ToolNotation | None,  # noqa: A002 - what it is called everywhere
    thought: tuple[ReasoningMarkers, bool] | None,
) -> str:
    """The grammar of an answer; `thought` says how one is marked and whether the prompt has opened one.

    Raises UnenforceableSchemaError.
    """
    grammar = GrammarBuilder(added)
    body = _body(grammar, wish, format)
    if thought:
        return grammar.text(f"{_thought(grammar, *thought)} {body}")
    return grammar.text(f"{format.thought(grammar)} {body}".strip() if format else body)


def _thought(grammar: GrammarBuilder, markers: ReasoningMarkers, is_opened: bool) -> str:
    rest = f"{grammar.anything_until(markers.close)} {grammar.terminal(_GAP)}"
    return rest if is_opened else f"({grammar.literal(markers.open)} {rest})?"


def _body(grammar: GrammarBuilder, wish: AnswerConstraint, format: ToolNotation | None) -> str:  # noqa: A002
    if format is None:
        return grammar.json(wish.content or ANY_OBJECT)
    if not wish.calls:
        return format.content(grammar, grammar.json(wish.content or ANY_OBJECT))
    call = grammar.rule(_one_of(format.call(grammar, name, schema) for name, schema in wish.calls))
    calls = f"{call} ({format.between(grammar)} {call})*" if wish.is_parallel else call
    if wish.must_call:
        return calls
    if wish.content is not None:
        return f"({format.content(grammar, grammar.json(wish.content))} | {calls})"
    return f"({format.content(grammar, grammar.anything_without(format.opener()))})? ({calls})?"


def _one_of(alternatives: Any) -> str:
    return " | ".join(f"({alternative})" for alternative in alternatives)


def _escaped(text: str) -> str:
    """As part of a regular expression between slashes."""
    return re.escape(text).replace("/", r"\/")


def schema_problem(schema: Schema) -> str | None:
    """Why no grammar can be made of `schema`; None when one can. Takes milliseconds, rarely more."""
    try:
        return _problem(json.dumps(schema | _SPACING))
    except RecursionError:
        return "it is nested too deeply"


@lru_cache(MAX_CHECKED)
def _problem(schema: str) -> str | None:
    found = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))
    return found.strip().partition("\n")[0] or None

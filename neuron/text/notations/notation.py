"""What is known of one family's answers: thought, answer and calls. `known.py` lists the families."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from neuron.text.grammar import GrammarBuilder
from neuron.text.notations.parser import CallParser, NewId, ToolSchemas
from neuron.text.reasoning import CallOpeners, ReasoningMarkers
from neuron.text.schema import Schema
from neuron.text.wrapped import AnswerMarkers

_ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def hex_id(name: str, index: int) -> str:
    """`call_` and 24 hexadecimal digits, as OpenAI's ids look."""
    return f"call_{secrets.token_hex(12)}"


def short_id(name: str, index: int) -> str:
    """Nine letters and digits, the only ids that some of Mistral's templates take."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))


def numbered_id(name: str, index: int) -> str:
    """`functions.NAME:N`, Kimi K2's ids."""
    return f"functions.{name}:{index}"


@dataclass(frozen=True, kw_only=True)
class Notation:
    """The way in which one family of models writes: how to read it, and a grammar that holds a model to it.

    A parser never loses a character that means something: what is no call comes out as text.
    """

    name: str  # as `tool_format` in the configuration and in a `ModelSpec` says it
    openers: tuple[str, ...]  # one of them begins a call, and within a thought ends the thought
    markers: tuple[str, ...]  # tokens that must stay visible to the parser
    thoughts: tuple[ReasoningMarkers, ...] = ()  # how it marks its reasoning, the usual spelling first
    answers: tuple[AnswerMarkers, ...] = ()  # what it writes around the visible answer, the usual one first
    call_id: NewId = hex_id  # makes a new id in the shape that the templates take
    splits_reasoning: ClassVar[bool] = False  # whether the parser does, and therefore reads every answer

    def parser(self, new_id: NewId, tools: ToolSchemas) -> CallParser:
        """A parser of one answer to a request with these tools. `new_id` makes the calls' ids."""
        raise NotImplementedError

    def answering(self, prompt: str) -> Notation:
        """The notation of an answer to `prompt`, which may have begun what the answer goes on with."""
        return self

    # --- the grammar; each method returns an expression in Lark -----------------------------------------

    def free_text(self, grammar: GrammarBuilder) -> str:
        """At least a character of text that holds no call."""
        return grammar.anything_without(self.openers)

    def enclose(self, grammar: GrammarBuilder, calls: str) -> str:
        """All calls of an answer, with what stands once around them."""
        return calls

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        """One call whose arguments follow `schema`. Raises `UnenforceableSchemaError`."""
        raise NotImplementedError

    def between(self, grammar: GrammarBuilder) -> str:
        """The separator of two calls."""
        return grammar.literal("\n")

    def thought(self, grammar: GrammarBuilder) -> str:
        """The reasoning before everything else, for a notation that splits it."""
        return ""

    def content(self, grammar: GrammarBuilder, body: str) -> str:
        """Visible text that matches `body`, with or without what the family writes around it."""
        if not self.answers:
            return body
        inner = grammar.rule(body)
        return f"({' | '.join([inner, *(_wrapped(grammar, around, inner) for around in self.answers)])})"

    @property
    def visible(self) -> frozenset[str]:
        """The tokens that must leave text: those of calls, thoughts and what stands around the answer."""
        thoughts = (marker for known in self.thoughts for marker in (known.open, known.close))
        answers = (marker for known in self.answers for marker in (known.open, known.close))
        return frozenset((*self.markers, *thoughts, *answers))

    def call_openers(self, is_token: Callable[[str], bool]) -> CallOpeners:
        """The openers that end an open thought; `is_token` says which markers are tokens of their own."""
        tokens = [marker for marker in self.markers if is_token(marker)]
        own = tuple(opener for opener in self.openers if opener.startswith(tuple(tokens)))
        return CallOpeners(own, tuple(opener for opener in self.openers if opener not in own))


def _wrapped(grammar: GrammarBuilder, around: AnswerMarkers, inner: str) -> str:
    before = f"{grammar.literal(around.open)} {grammar.space()}" if around.open else ""
    after = f"({grammar.space()} {grammar.literal(around.close)})?" if around.close else ""
    return " ".join(filter(None, (before, inner, after)))

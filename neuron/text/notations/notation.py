"""The base of all notations of tool calls. `known.py` lists them."""

from __future__ import annotations

from collections.abc import Sequence

from neuron.text.grammar import GrammarBuilder
from neuron.text.notations.parser import CallParser, NewId, ToolSchemas
from neuron.text.schema import Schema


class ToolNotation:
    """One way in which models write tool calls: how to read it, and a grammar that holds a model to it.

    A parser never loses a character that means something: what is no call comes out as text.
    """

    name: str  # as `tool_format` in the configuration and in a `ModelSpec` says it
    markers: Sequence[str]  # tokens that must stay visible to the parser
    splits_reasoning = False  # whether the parser does, and therefore reads every answer

    def fits(self, template: str) -> bool:
        """Whether a model with this chat template writes its calls in this notation."""
        raise NotImplementedError

    def parser(self, new_id: NewId, tools: ToolSchemas) -> CallParser:
        """A parser of one answer to a request with these tools. `new_id` makes the calls' ids."""
        raise NotImplementedError

    # --- the grammar; each method returns an expression in Lark -----------------------------------------

    def opener(self) -> str:
        """The text with which every call begins."""
        raise NotImplementedError

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
        """Visible text that matches `body`."""
        return body

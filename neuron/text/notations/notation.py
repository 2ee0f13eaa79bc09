"""How models write tool calls: the base of all notations. `formats.py` has the list of them."""

from __future__ import annotations

from collections.abc import Sequence

from neuron.text.grammar import GrammarBuilder
from neuron.text.notations.parser import CallParser, NewId, Schema, ToolSchemas


class ToolNotation:
    """One notation: how to read calls in it, and how to hold a model to it.

    A parser never loses a character that means something: what does not become a call comes out as text.
    """

    name: str
    markers: Sequence[str]  # tokens that must stay visible to the parser
    splits_reasoning = False  # the parser does it, so that it reads every answer

    def fits(self, template: str) -> bool:
        """Whether a model with this chat template writes its calls in this notation."""
        raise NotImplementedError

    def parser(self, new_id: NewId, tools: ToolSchemas) -> CallParser:
        raise NotImplementedError

    # --- grammar: each method gives a piece of Lark -----------------------------------------------------

    def opener(self) -> str:
        """What every call begins with."""
        raise NotImplementedError

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        """One call whose arguments follow `schema`. Raises UnenforceableSchemaError."""
        raise NotImplementedError

    def between(self, grammar: GrammarBuilder) -> str:
        """What stands between two calls."""
        return grammar.literal("\n")

    def thought(self, grammar: GrammarBuilder) -> str:
        """What may stand before everything else, where the parser splits reasoning."""
        return ""

    def content(self, grammar: GrammarBuilder, body: str) -> str:
        """Visible text."""
        return body

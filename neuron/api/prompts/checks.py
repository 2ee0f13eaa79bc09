"""What the sandbox says of the schemas and grammars of one caller."""

from __future__ import annotations

from neuron.engine.grammar_trial import grammar_problem
from neuron.pipe import AnswerGrammar
from neuron.sandbox.verdicts import Verdicts
from neuron.text.schema import Schema, schema_problem


class Checks:
    """Checks of schemas and grammars, which wait in the turn of `principal`. Each raises `ApiError` 503."""

    def __init__(self, verdicts: Verdicts, principal: str) -> None:
        self._verdicts = verdicts
        self._principal = principal

    async def schema_problem(self, schema: Schema) -> str | None:
        """Why `schema` cannot be enforced; None when it can."""
        return await self._verdicts.problem(self._principal, schema_problem, schema)

    async def grammar_problem(self, grammar: AnswerGrammar, vocab_size: int) -> str | None:
        """Why no answer can follow `grammar`; None when a worker can compile it within the limits."""
        check = (grammar.lark, tuple(grammar.end_ids), vocab_size)
        return await self._verdicts.problem(self._principal, grammar_problem, *check)

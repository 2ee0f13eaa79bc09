"""What the sandbox says of the schemas and grammars of one caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

from neuron.engine.grammar_trial import grammar_problem
from neuron.pipe import AnswerGrammar
from neuron.sandbox.process import CallLimitError
from neuron.sandbox.verdicts import Verdicts
from neuron.text.schema import Schema, grammar_source, schema_problem

P = ParamSpec("P")


class Checks:
    """Checks of schemas and grammars, which wait in the turn of `principal`. Each raises `ApiError` 503."""

    def __init__(self, verdicts: Verdicts, principal: str) -> None:
        self._verdicts = verdicts
        self._principal = principal

    async def schema_problem(self, schema: Schema) -> str | None:
        """Why `schema` cannot be enforced; None when it can. One that compiles too slowly cannot."""
        problem = await self._problem(schema_problem, schema)
        return problem or await self._problem(grammar_problem, f"start: %json {grammar_source(schema)}")

    async def grammar_problem(self, grammar: AnswerGrammar, vocab_size: int) -> str | None:
        """Why no answer can follow `grammar`; None when a worker can compile it within the limits."""
        return await self._problem(grammar_problem, grammar.lark, tuple(grammar.end_ids), vocab_size)

    async def _problem(
        self, check: Callable[P, str | None], *args: P.args, **options: P.kwargs
    ) -> str | None:
        try:
            return await self._verdicts.ask(self._principal, check, *args, **options)
        except CallLimitError as error:
            return f"it takes {error}"

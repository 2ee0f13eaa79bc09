"""What the sandbox says of the schemas and grammars of one request."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from neuron.engine.grammar_trial import grammar_problem
from neuron.pipe import AnswerGrammar
from neuron.sandbox.process import CallLimitError
from neuron.sandbox.verdicts import Verdicts
from neuron.text.content import AnswerContent, CheckedContent, check_content
from neuron.text.json_schema.check import CheckedSchema, check_schema
from neuron.text.schema import Schema, grammar_source

GRAMMAR_CODES = ("invalid_grammar", "grammar_exhausted")  # when a worker cannot follow an answer's grammar

P = ParamSpec("P")
T = TypeVar("T")


class Checks:
    """Checks of schemas and grammars, which wait in the turn of `principal`. Each raises `ApiError` 503.

    `unenforced` collects what schemas that are not strict ask for in vain, by its place in the body.
    """

    def __init__(self, verdicts: Verdicts, principal: str) -> None:
        self.unenforced: list[str] = []
        self._verdicts = verdicts
        self._principal = principal

    async def schema(self, schema: Schema, *, is_strict: bool) -> CheckedSchema:
        """What can be enforced of `schema`. One that compiles too slowly has that as its problem."""
        checked = await self._ask(_refused_schema, check_schema, schema, is_strict=is_strict)
        if checked.problem is None:
            lark = f"start: %json {grammar_source(checked.schema)}"
            if problem := await self._ask(str, grammar_problem, lark):
                return _refused_schema(problem)
        return checked

    async def content(self, content: AnswerContent) -> CheckedContent:
        """The form of an answer as grammars take it, or its problem."""
        return await self._ask(lambda reason: CheckedContent(content, reason), check_content, content)

    async def grammar_problem(self, grammar: AnswerGrammar, vocab_size: int) -> str | None:
        """Why no answer can follow `grammar`; None when a worker can compile it within the limits."""
        return await self._ask(str, grammar_problem, grammar.lark, tuple(grammar.end_ids), vocab_size)

    async def _ask(
        self, refused: Callable[[str], T], check: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        """What `check` finds; `refused` makes that of the limit that it exceeds."""
        try:
            return await self._verdicts.ask(self._principal, check, *args, **options)
        except CallLimitError as error:
            return refused(f"it takes {error}")


def _refused_schema(problem: str) -> CheckedSchema:
    return CheckedSchema({}, problem=problem)

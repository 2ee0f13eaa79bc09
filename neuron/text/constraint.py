"""The grammar of a whole answer: a thought, then text that follows a schema, tool calls, or both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from neuron.text.content import AnswerContent, content_expression
from neuron.text.grammar import GrammarBuilder
from neuron.text.notations.notation import Notation
from neuron.text.reasoning import ReasoningMarkers
from neuron.text.schema import ANY_OBJECT, Schema

_GAP = r"/[ \n]{0,4}/"  # between a thought and the answer


@dataclass(frozen=True, slots=True)
class AnswerConstraint:
    """What an answer is held to. `calls` are the tools that it may call, with the arguments' schemas."""

    content: AnswerContent | None = None  # None: free text
    calls: Sequence[tuple[str, Schema]] = ()
    must_call: bool = False
    is_parallel: bool = True


def answer_grammar(
    constraint: AnswerConstraint,
    *,
    added: Mapping[str, int],
    notation: Notation | None,
    thought: tuple[ReasoningMarkers, bool] | None,
) -> str:
    """The grammar of an answer, in Lark.

    `added` are the markers that are tokens of their own. `thought` is how the model marks its reasoning, and
    whether the prompt opened it already. Raises `UnenforceableSchemaError`.
    """
    grammar = GrammarBuilder(added)
    body = _body(grammar, constraint, notation)
    if thought:
        return grammar.text(f"{_thought(grammar, *thought)} {body}")
    if notation:
        return grammar.text(f"{notation.thought(grammar)} {body}".strip())
    return grammar.text(body)


def _thought(grammar: GrammarBuilder, markers: ReasoningMarkers, is_opened: bool) -> str:
    rest = f"{grammar.anything_until(markers.close)} {grammar.terminal(_GAP)}"
    return rest if is_opened else f"({grammar.literal(markers.open)} {rest})?"


def _body(grammar: GrammarBuilder, constraint: AnswerConstraint, notation: Notation | None) -> str:
    if notation is None:
        return content_expression(grammar, constraint.content or ANY_OBJECT)
    if not constraint.calls:
        return notation.content(grammar, content_expression(grammar, constraint.content or ANY_OBJECT))
    calls = _calls(grammar, constraint, notation)
    if constraint.must_call:
        return calls
    if constraint.content is not None:
        return f"({notation.content(grammar, content_expression(grammar, constraint.content))} | {calls})"
    return f"({notation.content(grammar, notation.free_text(grammar))})? ({calls})?"


def _calls(grammar: GrammarBuilder, constraint: AnswerConstraint, notation: Notation) -> str:
    call = grammar.rule(_one_of(notation.call(grammar, name, schema) for name, schema in constraint.calls))
    calls = f"{call} ({notation.between(grammar)} {call})*" if constraint.is_parallel else call
    return notation.enclose(grammar, calls)


def _one_of(alternatives: Iterable[str]) -> str:
    return " | ".join(f"({alternative})" for alternative in alternatives)

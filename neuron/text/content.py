"""The forms that an answer's text may be held to, as expressions of a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llguidance import LLMatcher, regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.schema import Schema


@dataclass(frozen=True, slots=True)
class ChoiceContent:
    """One of `texts`."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class RegexContent:
    """Text that the whole of `pattern` matches, in the syntax of Rust's regex crate."""

    pattern: str


@dataclass(frozen=True, slots=True)
class GrammarContent:
    """Text of a grammar: in llguidance's dialect of Lark, or in GBNF, llama.cpp's dialect of EBNF."""

    grammar: str


AnswerContent = Schema | ChoiceContent | RegexContent | GrammarContent


def content_expression(grammar: GrammarBuilder, content: AnswerContent) -> str:
    """The expression of `content`. Raises `UnenforceableSchemaError` for a grammar that cannot be read."""
    match content:
        case ChoiceContent(texts):
            return grammar.rule(" | ".join(grammar.literal(text) for text in texts))
        case RegexContent(pattern):
            return grammar.terminal(f"/{regex_to_lark(_unanchored(pattern), 'd')}/")
        case GrammarContent(text):
            return grammar.rule(f"%lark {{\n{_as_lark(text)}\n}}")
        case _:
            return grammar.json(content)


def content_problem(content: AnswerContent) -> str | None:
    """Why no grammar can be made of `content`, whole; None when one can. May take as long as a schema."""
    grammar = GrammarBuilder({})
    try:
        lark = grammar.text(content_expression(grammar, content))
    except UnenforceableSchemaError as error:
        return str(error)
    return LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(lark)).strip() or None


def _unanchored(pattern: str) -> str:
    """The pattern without the anchors at its ends: it has to match the whole text anyway."""
    pattern = pattern.removeprefix("^")
    before = pattern.removesuffix("$")
    is_escaped = (len(before) - len(before.rstrip("\\"))) % 2
    return pattern if is_escaped else before


def _as_lark(text: str) -> str:
    try:
        return any_to_lark(text)
    except Exception as error:  # the library's own class is private, and others leak out of it
        raise UnenforceableSchemaError(f"it is neither Lark nor GBNF: {error}") from error

"""The forms that an answer's text may be held to, as expressions of a grammar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from llguidance import LLMatcher, regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from neuron.text.grammar import GrammarBuilder
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
    """Text of a grammar in llguidance's dialect of Lark; before it is checked, maybe in llama.cpp's GBNF."""

    grammar: str


AnswerContent = Schema | ChoiceContent | RegexContent | GrammarContent


@dataclass(frozen=True, slots=True)
class CheckedContent:
    """The form of an answer as `content_expression` takes it, unless there is a problem."""

    content: AnswerContent
    problem: str | None = None


def content_expression(grammar: GrammarBuilder, content: AnswerContent) -> str:
    """The expression of `content`, which is checked."""
    match content:
        case ChoiceContent(texts):
            return grammar.rule(
                " | ".join(map(json.dumps, texts))
            )  # text, where it names a control token, too
        case RegexContent(pattern):
            return grammar.terminal(f"/{regex_to_lark(_unanchored(pattern), 'd')}/")
        case GrammarContent(text):
            return grammar.rule(f"%lark {{\n{text}\n}}")
        case _:
            return grammar.json(content)


def check_content(content: AnswerContent) -> CheckedContent:
    """Whether a grammar can be made of `content`, and the whole reason if not. May take very long."""
    if isinstance(content, GrammarContent):
        try:
            content = GrammarContent(any_to_lark(content.grammar))
        except Exception as error:  # noqa: BLE001 (the library's own class is private, and others leak out)
            return CheckedContent(content, f"it is neither Lark nor GBNF: {error}")
    grammar = GrammarBuilder({})
    lark = grammar.text(content_expression(grammar, content))
    problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(lark)).strip()
    return CheckedContent(content, problem or None)


def _unanchored(pattern: str) -> str:
    """The pattern without the anchors at its ends: it has to match the whole text anyway."""
    pattern = pattern.removeprefix("^")
    before = pattern.removesuffix("$")
    is_escaped = (len(before) - len(before.rstrip("\\"))) % 2
    return pattern if is_escaped else before

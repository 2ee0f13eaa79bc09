"""Guided decoding: an answer that follows a grammar, by llguidance.

A `Guide` knows tokens and bits only. What it allows next costs tens of microseconds and is asked for when the
step is planned, so that the device gets a finished mask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_GRAMMARS = 128  # kept compiled, per model

# Bounds on what a client's schema may cost: at the library's documented speeds, 20 ms to build and 15 ms a
# token at the very worst. A grammar that runs out of them is refused, or ends its request.
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, max_lexer_states=50_000, max_grammar_size=200_000
)


class GrammarError(Exception):
    """A grammar that cannot be followed; the message is the library's reason."""


class LLGuidanceMatcher:
    """See `neuron.engine.request.Guide`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_terminated(self) -> bool:
        return self._matcher.is_stopped()

    def next_token_bitmask(self) -> bytes:
        return self._matcher.compute_bitmask()

    def accept_token(self, token: int) -> str | None:
        if self._matcher.consume_token(token):
            return None
        return f"the grammar cannot go on: {_first_line(self._matcher.get_error())}"


class GrammarCompiler:
    """Compiles grammars for one model's vocabulary and keeps the last ones. One thread at a time."""

    def __init__(self, tokenizer_file: Path) -> None:
        self._file = tokenizer_file
        self._tokenizers: dict[tuple[int, ...], LLTokenizer] = {}
        self._matchers: OrderedDict[tuple[str, tuple[int, ...]], LLMatcher] = OrderedDict()

    def matcher(self, grammar: str, end_ids: Sequence[int]) -> LLGuidanceMatcher:
        """A guide at its beginning. Takes a second for the first grammar of a large vocabulary, then
        milliseconds, nearly nothing for a grammar seen before. Raises GrammarError."""
        key = grammar, tuple(end_ids)
        matcher = self._matchers.pop(key, None) or self._compile(*key)
        self._matchers[key] = matcher
        if len(self._matchers) > MAX_GRAMMARS:
            self._matchers.popitem(last=False)
        return LLGuidanceMatcher(matcher.deep_copy())

    def _compile(self, grammar: str, end_ids: tuple[int, ...]) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer(end_ids), grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise GrammarError(_first_line(matcher.get_error()))
        return matcher

    def _tokenizer(self, end_ids: tuple[int, ...]) -> LLTokenizer:
        if end_ids not in self._tokenizers:
            try:
                self._tokenizers = {end_ids: LLTokenizer(str(self._file), eos_token=list(end_ids))}
            except Exception as error:  # the library raises bare Exception
                raise GrammarError(
                    f"this model's tokenizer cannot be guided: {_first_line(str(error))}"
                ) from error
        return self._tokenizers[end_ids]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]

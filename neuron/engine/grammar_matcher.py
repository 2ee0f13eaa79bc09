"""Guided decoding: answers that follow a grammar, by llguidance.

A matcher knows token ids and bits only. Its bitmask takes tens of microseconds and is computed when the step
is planned, so that the device gets it ready-made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_GRAMMARS = 128  # kept compiled, per model

# What a client's schema may cost: at the library's documented speeds, 20 ms to build and 15 ms a token at the
# very worst. A grammar that exceeds it is refused, or ends its request.
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, max_lexer_states=50_000, max_grammar_size=200_000
)


class GrammarError(Exception):
    """A grammar that cannot be followed; the message is the library's reason."""


class LLGuidanceMatcher:
    """A `neuron.engine.request.GrammarMatcher`."""

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
    """Compiles grammars for one model's vocabulary and keeps the latest. For one thread at a time."""

    def __init__(self, tokenizer_file: Path) -> None:
        self._file = tokenizer_file
        self._tokenizers: dict[tuple[int, ...], LLTokenizer] = {}
        self._compiled: OrderedDict[tuple[str, tuple[int, ...]], LLMatcher] = OrderedDict()

    def compile(self, grammar: str, end_ids: Sequence[int]) -> LLGuidanceMatcher:
        """Return a matcher at the beginning of `grammar`. Raises GrammarError.

        The first grammar of a large vocabulary takes a second, others milliseconds, one that is kept next to
        nothing.
        """
        key = grammar, tuple(end_ids)
        matcher = self._compiled.pop(key, None) or self._compile(*key)
        self._compiled[key] = matcher
        if len(self._compiled) > MAX_GRAMMARS:
            self._compiled.popitem(last=False)
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
                cause = _first_line(str(error))
                raise GrammarError(f"this model's tokenizer cannot be guided: {cause}") from error
        return self._tokenizers[end_ids]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]

"""Guided decoding: answers that follow a grammar, by llguidance.

A matcher knows token ids and bits only. The mask of the next token takes tens of microseconds. It is computed
when a token is accepted, so that an answer whose grammar cannot go on ends there, before anything is sampled.

llguidance never raises for what a grammar costs: a matcher that used up its limits says so when it is asked,
and gives masks that allow the end alone, as if the answer were complete. It is asked after each call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from neuron.engine.request import GrammarFailure

# What a client's schema may cost. A step's fuel bounds the slowest mask, for which the device's streams wait
# all: 27 ms for the worst grammar found. Strings of 200,000 characters and enums of 10,000 values need less
# than a half. States are one answer's own: nine a character of strings whose lengths are limited, each limit
# apart, and 350 bytes each. So many do for 28,000 characters of strings with limits of their own.
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000, step_lexer_fuel=50_000, max_lexer_states=250_000, max_grammar_size=200_000
)


class GrammarError(Exception):
    """A grammar that cannot be followed; the message is the library's reason."""


class LLGuidanceMatcher:
    """A `neuron.engine.request.GrammarMatcher`. Raises GrammarError when there is no first mask."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self.allowed = matcher.compute_bitmask()
        if matcher.is_error():
            raise GrammarError(_refusal(matcher.get_error()))

    @property
    def is_terminated(self) -> bool:
        return self._matcher.is_stopped()

    def masks_after(self, tokens: Sequence[int]) -> list[bytes]:
        masks: list[bytes] = []
        # A copy shares the states of the answer's lexer, of which there are far more than drafts can use up.
        ahead = self._matcher.deep_copy() if tokens else self._matcher
        for token in tokens:
            is_allowed = _allows(masks[-1] if masks else self.allowed, token)
            if not is_allowed or not ahead.consume_token(token) or ahead.is_stopped():
                break
            mask = ahead.compute_bitmask()
            if ahead.is_error():
                break
            masks.append(mask)
        return masks

    def accept_token(self, token: int) -> GrammarFailure | None:
        was_allowed = _allows(self.allowed, token)
        if self._matcher.consume_token(token) and not self._matcher.is_stopped():
            self.allowed = self._matcher.compute_bitmask()
        if not self._matcher.is_error():
            return None
        reason = _first_line(self._matcher.get_error())
        if not was_allowed:
            return GrammarFailure(500, "engine_error", f"the grammar cannot go on: {reason}")
        cure = "Fewer different patterns and lengths in the schema need less."
        message = f"The answer used up what following its grammar may take ({reason}). {cure}"
        return GrammarFailure(400, "grammar_exhausted", message)


def _allows(mask: bytes, token: int) -> bool:
    return token >> 3 < len(mask) and bool(mask[token >> 3] >> (token & 7) & 1)


class GrammarCompiler:
    """Compiles grammars for one model's vocabulary. For one thread at a time.

    Each answer gets a matcher of its own. Copies of a compiled one would share its states, so that a few
    answers could use up what the next one needs; compiling takes 0.8 ms for an ordinary schema and 7 ms for
    forty optional objects.
    """

    def __init__(self, tokenizer_file: Path) -> None:
        self._file = tokenizer_file
        self._tokenizers: dict[tuple[int, ...], LLTokenizer] = {}

    def compile(self, grammar: str, end_ids: Sequence[int]) -> LLGuidanceMatcher:
        """Return a matcher at the beginning of `grammar`. Raises GrammarError.

        The first grammar of a large vocabulary takes a second more.
        """
        return compiled(grammar, self._tokenizer(tuple(end_ids)))

    def _tokenizer(self, end_ids: tuple[int, ...]) -> LLTokenizer:
        if end_ids not in self._tokenizers:
            try:
                self._tokenizers = {end_ids: LLTokenizer(_guidable(self._file), eos_token=list(end_ids))}
            except Exception as error:  # the library raises bare Exception
                cause = _first_line(str(error))
                raise GrammarError(f"this model's tokenizer cannot be guided: {cause}") from error
        return self._tokenizers[end_ids]


def compiled(grammar: str, tokenizer: LLTokenizer) -> LLGuidanceMatcher:
    """Return a matcher at the beginning of `grammar`, with its first mask. Raises GrammarError."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise GrammarError(_refusal(matcher.get_error()))
    return LLGuidanceMatcher(matcher)


def _guidable(tokenizer_file: Path) -> str:
    """The tokenizer's JSON, with names of control tokens that no text has.

    Where a grammar leaves no choice, llguidance takes the tokens of the text that must come. Within a string
    `</tool_call>` would be its control token, which the same grammar then refuses.
    """
    tokenizer = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    added, model = tokenizer.get("added_tokens", []), tokenizer["model"]
    names = {token["content"]: f"<\ue000{token['id']}>" for token in added if _is_control(token)}
    for token in added:
        token["content"] = names.get(token["content"], token["content"])
    vocab = model.get("vocab", {})
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(text, text): id_ for text, id_ in vocab.items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in vocab]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return json.dumps(tokenizer)


def _is_control(token: Any) -> bool:
    """Whether llguidance holds an added token for a control token."""
    name = token["content"]
    return bool(token["special"] or (name.startswith("<") and name.endswith(">")))


def _refusal(error: str) -> str:
    reason = _first_line(error)
    cause = "no text follows it" if reason == "NoExtensionBias" else reason
    return f"the grammar cannot be compiled: {cause}" if cause else "the grammar cannot be compiled"


def _first_line(error: str) -> str:
    """What is wrong in one line, without the word that the library puts before what it did not foresee."""
    return error.strip().removeprefix("panic:").strip().partition("\n")[0]

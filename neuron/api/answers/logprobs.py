"""Logprobs in OpenAI's two shapes. They are the model's own, before any sampling rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from neuron.pipe import Logprob

MIN_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's stand-in for it

TokenBytes = Callable[[int], bytes]
ScoredToken = tuple[int, Logprob | None]  # a prompt's first token has no logprob


class DrawnToken(NamedTuple):
    """A token of an answer with its logprob."""

    token: int
    logprob: Logprob


def chat_shape(drawn: Sequence[DrawnToken], token_bytes: TokenBytes) -> dict[str, Any]:
    """One entry per token of the answer, those of reasoning and calls included."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        own = token_bytes(token)
        return {"token": own.decode(errors="replace"), "logprob": _number(logprob), "bytes": list(own)}

    content = [
        entry(token, logprob.chosen) | {"top_logprobs": [entry(*other) for other in logprob.top]}
        for token, logprob in drawn
    ]
    return {"content": content, "refusal": None}


class TextShape:
    """The shape of completions: lists over all tokens, with each token's offset in the text so far."""

    def __init__(self, token_bytes: TokenBytes, offset: int = 0) -> None:
        self._token_bytes = token_bytes
        self._offset = offset

    def __call__(self, drawn: Sequence[ScoredToken]) -> dict[str, Any]:
        tokens = [self._text(token) for token, _ in drawn]
        offsets = []
        for text in tokens:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": tokens,
            "token_logprobs": [logprob and _number(logprob.chosen) for _, logprob in drawn],
            "top_logprobs": [logprob and self._top(token, logprob) for token, logprob in drawn],
            "text_offset": offsets,
        }

    def _top(self, token: int, logprob: Logprob) -> dict[str, float]:
        """The likeliest tokens and `token` itself, by text; of others that read alike, the likeliest."""
        top: dict[str, float] = {}
        for other, value in logprob.top:
            top.setdefault(self._text(other), _number(value))
        top[self._text(token)] = _number(logprob.chosen)
        return top

    def _text(self, token: int) -> str:
        return self._token_bytes(token).decode(errors="replace")


def _number(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB)

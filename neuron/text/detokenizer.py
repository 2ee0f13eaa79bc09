"""Tokens to text, one at a time, never half a character.

A byte-level token may hold part of a UTF-8 character; decoders show an incomplete one as U+FFFD. Text that
ends in one is held back, for at most three tokens: a character has at most four bytes, so one that is still
incomplete by then stays so and is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

REPLACEMENT = "\ufffd"
MAX_OPEN_TOKENS = 3


class TokenDecoder(Protocol):
    """The method of `tokenizers.Tokenizer` that is used here."""

    def decode(self, ids: list[int], skip_special_tokens: bool = ...) -> str: ...


class Detokenizer:
    """Decodes one answer. `hidden` are the ids of control tokens, which leave no text.

    Decoders look at neighbours (a leading space, joined bytes), so new tokens are decoded together with the
    last ones that were shown: `_ids[:_shown]` is that context and `_context` its text.
    """

    def __init__(self, decoder: TokenDecoder, hidden: Collection[int] = ()) -> None:
        self._decoder = decoder
        self._hidden = hidden
        self._ids: list[int] = []
        self._shown = 0
        self._context = ""

    def feed(self, token: int) -> str:
        """The text that the token completes."""
        if token in self._hidden:
            return ""
        self._ids.append(token)
        text = self._text(len(self._ids))
        if not text.endswith(REPLACEMENT):
            return self._show(len(self._ids), text)
        if len(self._ids) - self._shown <= MAX_OPEN_TOKENS:
            return ""
        return self._show_some()

    def finish(self) -> str:
        """The text that was held back, complete or not."""
        return self._show(len(self._ids), self._text(len(self._ids)))

    def _show_some(self) -> str:
        """The text up to the last complete character; else the oldest open token, which stays incomplete."""
        for end in range(len(self._ids) - 1, self._shown, -1):
            text = self._text(end)
            if not text.endswith(REPLACEMENT):
                return self._show(end, text)
        return self._show(self._shown + 1, self._text(self._shown + 1))

    def _text(self, end: int) -> str:
        return self._decoder.decode(self._ids[:end], skip_special_tokens=False)

    def _show(self, end: int, text: str) -> str:
        new = text[len(self._context) :]
        self._ids = self._ids[self._shown :]
        self._shown = end - self._shown
        self._context = self._text(self._shown)
        return new

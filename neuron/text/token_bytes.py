"""The bytes that a token stands for, even when they are only a part of a character."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """Maps a token to its bytes, by the way in which the tokenizer's decoder spells bytes.

    A byte-level vocabulary uses an alphabet of 256 signs; one with byte fallback is text, with `<0xE2>` for
    bytes that are none.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {id_: token.content for id_, token in tokenizer.get_added_tokens_decoder().items()}
        self._is_byte_level = '"ByteLevel"' in _state(tokenizer.decoder)

    def __call__(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        text = self._tokenizer.id_to_token(token)
        if text is None:  # a row of the embedding without a token
            return b""
        if self._is_byte_level:
            return bytes(_alphabet()[sign] for sign in text if sign in _alphabet())
        if byte := _BYTE.fullmatch(text):
            return bytes([int(byte[1], 16)])
        return text.replace("▁", " ").encode()


def _state(decoder: Any) -> str:
    return json.dumps(json.loads(decoder.__getstate__())) if decoder is not None else ""


@cache
def _alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for the characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}

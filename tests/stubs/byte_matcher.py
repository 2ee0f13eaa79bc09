"""Grammars followed byte by byte: whether they admit a text, and texts drawn at random from them."""

from __future__ import annotations

import random
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from neuron.text.schema import grammar_source

END = 256
VOCABULARY = 512
MAX_BYTES = 4000
_CLOSERS = b'"}],:0'  # favoured, so that texts come to an end


class _Bytes:
    """A vocabulary of the 256 bytes, an end and markers, as llguidance asks for it."""

    eos_token_id = END
    bos_token_id = None
    special_token_ids = range(END, VOCABULARY)
    tokens = [bytes([i]) if i < END else b"<%d>" % i for i in range(VOCABULARY)]
    is_tokenizer_wrapper = True

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


_TOKENIZER = LLTokenizer(_Bytes())


def admits(lark: str, text: str) -> bool:
    """Whether `text` is a whole answer of the grammar."""
    matcher = _matcher(lark)
    encoded = list(text.encode())
    return matcher.try_consume_tokens(encoded) == len(encoded) and matcher.is_accepting()


def schema_admits(schema: dict[str, Any], text: str) -> bool:
    """The same of the grammar of a JSON Schema."""
    return admits(f"start: %json {grammar_source(schema)}", text)


def drawn(schema: dict[str, Any], seed: int) -> str:
    """A text drawn at random from the grammar of a JSON Schema; empty if it does not come to an end."""
    matcher = _matcher(f"start: %json {grammar_source(schema)}")
    draw, said = random.Random(seed), bytearray()  # noqa: S311
    while len(said) < MAX_BYTES and not matcher.is_stopped():
        bits = matcher.compute_bitmask()
        allowed = [byte for byte in range(END + 1) if bits[byte // 8] >> byte % 8 & 1]
        favoured = [byte for byte in allowed if byte == END or byte in _CLOSERS]
        byte = draw.choice(favoured if favoured and draw.random() < 0.6 else allowed)
        assert matcher.consume_token(byte), matcher.get_error()
        if byte == END:
            return said.decode()
        said.append(byte)
    assert not matcher.is_error(), matcher.get_error()
    return said.decode() if matcher.is_accepting() else ""


def _matcher(lark: str) -> LLMatcher:
    matcher = LLMatcher(_TOKENIZER, lark, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher

"""Whether a grammar can be followed, tried apart from any model.

Compiling is what some grammars make slow, and it takes as long for a vocabulary of single bytes as for a
model's own; only loading that would take a second and its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from llguidance import LLTokenizer, TokenizerWrapper

from neuron.engine.grammar_matcher import GrammarError, compiled

NUM_BYTES = 256


def grammar_problem(grammar: str, end_ids: Sequence[int] = (0,), vocab_size: int = 0) -> str | None:
    """Why no answer can follow `grammar`; None when one can begin.

    It may name token ids below `vocab_size`, `end_ids` among them.
    """
    try:
        compiled(grammar, _byte_tokenizer(vocab_size, tuple(end_ids)))
    except GrammarError as error:
        return str(error)
    return None


@lru_cache(2)
def _byte_tokenizer(vocab_size: int, end_ids: tuple[int, ...]) -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes(max(vocab_size, NUM_BYTES))), eos_token=list(end_ids))


class _Bytes:
    """What llguidance wants to know of a vocabulary: a token for each byte, and nothing in the others."""

    eos_token_id = 0
    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(self, vocab_size: int) -> None:
        self.tokens = [bytes([byte]) for byte in range(NUM_BYTES)] + [b""] * (vocab_size - NUM_BYTES)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)

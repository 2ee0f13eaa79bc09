"""Pairs of texts as models that rank read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer


class EncodedPair(NamedTuple):
    """The tokens of a pair, and where the second text begins as models with token types count."""

    tokens: list[int]
    second: int


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], most: int | None
) -> list[EncodedPair]:
    """Return the tokens of each pair; of those with more than `most`, without the end of the second text."""
    encodings = tokenizer.encode_batch_fast(list(pairs), add_special_tokens=True)
    return [_cut(encoding, most) for encoding in encodings]


def _cut(encoding: Encoding, most: int | None) -> EncodedPair:
    tokens, types = list(encoding.ids), list(encoding.type_ids)
    if most is not None and (over := len(tokens) - most) > 0:
        places = [at for at, number in enumerate(encoding.sequence_ids) if number == 1]
        dropped = set(places[-over:]) if over < len(places) else set()  # or nothing would be left of it
        tokens = [token for at, token in enumerate(tokens) if at not in dropped]
        types = [kind for at, kind in enumerate(types) if at not in dropped]
    return EncodedPair(tokens, types.index(1) if 1 in types else len(tokens))

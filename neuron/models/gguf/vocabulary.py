"""A tokenizer's vocabulary as a GGUF file lists it: a text, a kind and perhaps a score for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neuron.models.gguf.metadata import GgufKeys

TOKENS, KINDS, SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_KNOWN_KINDS = frozenset(range(7))  # with 0, which says nothing


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens by their ids. Added tokens, control ones and those of users, are text as it is written."""

    texts: list[str]
    kinds: list[int]
    scores: list[float]

    @property
    def ids(self) -> dict[str, int]:
        return {text: id_ for id_, text in enumerate(self.texts)}

    def of(self, *kinds: int) -> list[str]:
        """Return the tokens of some kinds, in the order of their ids."""
        return [text for text, kind in zip(self.texts, self.kinds, strict=True) if kind in kinds]

    def text(self, token: int | None) -> str | None:
        """Return a token's text; None where there is none."""
        return self.texts[token] if token is not None and token < len(self.texts) else None


def read_vocabulary(metadata: GgufKeys) -> Vocabulary:
    """Return the vocabulary. Raises ModelLoadError naming file and key."""
    texts = [text or f"[EMPTY_{id_}]" for id_, text in enumerate(metadata.texts(TOKENS))]
    if not texts:
        raise metadata.broken(TOKENS, "is empty")
    _check_different(metadata, texts)
    kinds = [NORMAL] * len(texts)
    if metadata.has(KINDS):
        kinds = [int(kind) for kind in metadata.numbers(KINDS)]
        if strange := set(kinds) - _KNOWN_KINDS:
            raise metadata.broken(KINDS, f"holds {min(strange)}, which is no kind of token")
    scores = metadata.numbers(SCORES) if metadata.has(SCORES) else []
    _check_length(metadata, KINDS, kinds, texts)
    if scores:
        _check_length(metadata, SCORES, scores, texts)
    return Vocabulary(texts, kinds, scores)


def _check_different(metadata: GgufKeys, texts: list[str]) -> None:
    ids: dict[str, int] = {}
    for id_, text in enumerate(texts):
        if (other := ids.setdefault(text, id_)) != id_:
            raise metadata.broken(TOKENS, f"holds {text!r} twice, as {other} and as {id_}")


def _check_length(metadata: GgufKeys, key: str, values: list[Any], texts: list[str]) -> None:
    if len(values) != len(texts):
        raise metadata.broken(key, f"has {len(values)} entries for {len(texts)} tokens")

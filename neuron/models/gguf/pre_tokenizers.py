"""How text is split before byte pairs are merged: the names that GGUF files give, and what they stand for.

The patterns are not in the files. Each row says what the tokenizers of the models have that are written under
its name; a name without a row is refused, for another pattern would give other tokens without a sign of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKED_WORD = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_MARKED_ONLY = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_MARK_AND_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased_words(ending: str) -> str:
    """Return words that end where an upper letter follows a lower one."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{_UPPER}*{_LOWER}+{ending}|{before}{_UPPER}+{_LOWER}*{ending}"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """A row. Without patterns GPT-2's own is used, after `digits` have been split off, each on its own."""

    patterns: tuple[str, ...] = ()
    digits: bool = False
    is_composed: bool = False  # text is brought to Unicode's form NFC before
    ignores_merges: bool = False  # where a piece is a token
    adds_bos: bool = False  # unless a file says otherwise

    def build(self) -> Any:
        """Return it as a part of a tokenizer."""
        parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        parts += [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not self.patterns))
        return pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]

    @property
    def normalizer(self) -> Any | None:
        return normalizers.NFC() if self.is_composed else None


_GPT2 = PreTokenizer()
_DIGITS = PreTokenizer(digits=True)
_THREE_DIGITS = PreTokenizer((rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_MARKS}|{_SPACE}",))
_LLAMA3 = replace(_THREE_DIGITS, ignores_merges=True, adds_bos=True)
_QWEN2 = PreTokenizer((rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_MARKS}|{_SPACE}",), is_composed=True)
_QWEN35 = PreTokenizer(
    (rf"{_CONTRACTION}|{_MARKED_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}",),
    is_composed=True,
)
_GPT4O = PreTokenizer(
    (rf"{_cased_words(f'{_CONTRACTION}?')}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}",)
)
_DEEPSEEK3 = PreTokenizer(
    (
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        rf"{_MARK_AND_WORD}|{_MARKED_ONLY}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACE}",
    )
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "chatglm-bpe": _THREE_DIGITS,
    "codeshell": _DIGITS,
    "command-r": replace(_DIGITS, is_composed=True),
    "dbrx": _THREE_DIGITS,
    "deepseek-r1-qwen": _QWEN2,
    "deepseek-v3": _DEEPSEEK3,
    "exaone": _DIGITS,
    "falcon3": _LLAMA3,
    "glm4": replace(_THREE_DIGITS, ignores_merges=True),
    "gpt-2": _GPT2,
    "gpt-4o": _GPT4O,
    # of the model that ships with neuron
    "helexa-tiny": PreTokenizer((rf"{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+|{_SPACE}",)),
    "lfm2": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "minerva-7b": _DIGITS,
    "minimax-m2": _GPT4O,
    "mpt": replace(_GPT2, is_composed=True),
    "olmo": replace(_GPT2, is_composed=True),
    "phi-2": _GPT2,
    "qwen2": _QWEN2,
    "qwen35": _QWEN35,
    "refact": _DIGITS,
    "seed-coder": PreTokenizer((rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACE}",)),
    "smaug-bpe": replace(_LLAMA3, adds_bos=False),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "tekken": PreTokenizer(
        (rf"{_cased_words('')}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}",),
        ignores_merges=True,
        adds_bos=True,
    ),
}

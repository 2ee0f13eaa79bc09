"""The tokenizer of a GGUF file, as a `tokenizers` one that gives the tokens of the model's own."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from neuron.models.checkpoint import ModelLoadError
from neuron.models.gguf.metadata import GgufKeys
from neuron.models.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from neuron.models.gguf.vocabulary import (
    BYTE,
    CONTROL,
    SCORES,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
)

MODEL, PRE, MERGES = "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.merges"
ADD_BOS, ADD_EOS = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"
_ADD_PREFIX = "tokenizer.ggml.add_space_prefix"
_SPACE = "▁"  # stands for one in SentencePiece's tokens
# Ids where a file names none, by the kind of tokenizer.
_DEFAULT_IDS: dict[str, dict[str, int]] = {"llama": {"bos": 1, "eos": 2, "unknown": 0}, "gpt2": {}}
# Of Mistral's later vocabularies, whose text gets a space at its beginning alone.
_FIRST_SPACE_ONLY = "[INST]"
# Tokens of Phi-3 that leave the white space after them alone; its others swallow it.
_KEEPS_SPACE = {"<unk>", "<s>", "<|endoftext|>"}


def kind_of_tokenizer(metadata: GgufKeys) -> str:
    """Return the kind of a file's tokenizer. Raises ModelLoadError for one that is not read."""
    kind = metadata.text(MODEL)
    if kind not in _DEFAULT_IDS:
        cause = f"{MODEL} is {kind!r}; of GGUF files gpt2 (byte-level BPE) and llama (SentencePiece) are read"
        raise _unsupported(metadata, f"{cause}; use the model's safetensors release")
    return kind


def special_id(metadata: GgufKeys, name: str) -> int | None:
    """Return the id of a special token, `bos`, `eos`, `unknown` and so on; None where there is none."""
    key = f"tokenizer.ggml.{name}_token_id"
    if metadata.has(key):
        return metadata.token_id(key)
    return _DEFAULT_IDS[kind_of_tokenizer(metadata)].get(name)


def build_tokenizer(metadata: GgufKeys) -> tuple[Tokenizer, Vocabulary]:
    """Return the tokenizer and its vocabulary. Raises ModelLoadError naming file and key."""
    kind = kind_of_tokenizer(metadata)
    vocabulary = read_vocabulary(metadata)
    if kind == "gpt2":
        row = _pre_tokenizer(metadata)
        tokenizer, adds_bos = _byte_level(metadata, vocabulary, row), row.adds_bos
    else:
        vocabulary = _with_marked_spaces(vocabulary)
        tokenizer, adds_bos = _sentencepiece(metadata, vocabulary), True
    tokenizer.add_tokens(_added(metadata, vocabulary, kind))
    _add_ends(metadata, tokenizer, vocabulary, adds_bos=adds_bos)
    return tokenizer, vocabulary


# --- byte-level BPE ---------------------------------------------------------------------------------------


def _pre_tokenizer(metadata: GgufKeys) -> PreTokenizer:
    if not metadata.has(PRE):
        cause = f"lacks the key {PRE}, without which its text cannot be split as the model expects"
        raise _unsupported(metadata, f"{cause}; use a file that is made today")
    name = metadata.text(PRE)
    if (row := PRE_TOKENIZERS.get(name)) is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise _unsupported(metadata, f"{PRE} is {name!r}, which is not known here; {known} are")
    return row


def _byte_level(metadata: GgufKeys, vocabulary: Vocabulary, row: PreTokenizer) -> Tokenizer:
    merges = [_parts(metadata, number, merge) for number, merge in enumerate(metadata.texts(MERGES))]
    bpe = _bpe(metadata, MERGES, vocabulary, merges, ignore_merges=row.ignores_merges)
    tokenizer = Tokenizer(bpe)
    if row.normalizer is not None:
        tokenizer.normalizer = row.normalizer
    tokenizer.pre_tokenizer = row.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _parts(metadata: GgufKeys, number: int, merge: str) -> tuple[str, str]:
    """Return what a merge joins: two texts with a space between them; the first may begin with one."""
    left, _, right = merge[1:].partition(" ")
    if not merge or not right:
        raise metadata.broken(MERGES, f"holds {merge!r} as number {number}, which joins nothing")
    return merge[0] + left, right


# --- SentencePiece ----------------------------------------------------------------------------------------


def _with_marked_spaces(vocabulary: Vocabulary) -> Vocabulary:
    """Return the vocabulary with runs of spaces written as the model's own tokenizer writes them."""
    texts = [text if text.strip(" ") else text.replace(" ", _SPACE) for text in vocabulary.texts]
    return Vocabulary(texts, vocabulary.kinds, vocabulary.scores)


def _sentencepiece(metadata: GgufKeys, vocabulary: Vocabulary) -> Tokenizer:
    if not vocabulary.scores:
        raise metadata.broken(SCORES, "is missing, without which SentencePiece's tokens cannot be merged")
    unknown = vocabulary.text(special_id(metadata, "unknown"))
    bpe = _bpe(
        metadata,
        SCORES,
        vocabulary,
        _merges_by_score(vocabulary),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=bool(vocabulary.of(BYTE)),
    )
    tokenizer = Tokenizer(bpe)
    parts: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.flag(_ADD_PREFIX, default=True):
        parts.append(decoders.Strip(" ", 1, 0))
        if _FIRST_SPACE_ONLY in vocabulary.of(CONTROL):
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=False)
        else:
            prepend = [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
            tokenizer.normalizer = normalizers.Sequence(prepend)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


def _merges_by_score(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return all pairs of tokens that make another, those that make the likeliest first.

    The order among pairs of one score is that of the conversion which Hugging Face's tokenizers come from:
    longer parts first, then by ids.
    """
    ids = vocabulary.ids
    found: list[tuple[float, int, int, str, str]] = []
    for text, score in zip(vocabulary.texts, vocabulary.scores, strict=True):
        pairs = [(text[:end], text[end:]) for end in range(1, len(text))]
        known = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        known.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(score, len(left), len(right), left, right) for left, right in known]
    found.sort(key=lambda each: each[:3], reverse=True)
    return [(left, right) for *_, left, right in found]


# --- both -------------------------------------------------------------------------------------------------


def _bpe(
    metadata: GgufKeys, key: str, vocabulary: Vocabulary, merges: list[tuple[str, str]], **options: Any
) -> Any:
    try:
        return models.BPE(vocab=vocabulary.ids, merges=merges, **options)
    except Exception as error:  # the library raises bare Exception
        raise metadata.broken(key, f"does not fit the tokens: {error}") from error


def _added(metadata: GgufKeys, vocabulary: Vocabulary, kind: str) -> list[AddedToken]:
    """Return the tokens that are looked for in text before it is split."""
    special = {CONTROL, UNKNOWN} if kind == "llama" else {CONTROL}
    swallows = kind == "llama" and metadata.architecture == "phi3"
    return [
        AddedToken(
            text,
            special=token_kind in special,
            normalized=False,
            rstrip=swallows and text not in _KEEPS_SPACE,
        )
        for text, token_kind in zip(vocabulary.texts, vocabulary.kinds, strict=True)
        if token_kind in special or token_kind == USER_DEFINED
    ]


def _add_ends(metadata: GgufKeys, tokenizer: Tokenizer, vocabulary: Vocabulary, *, adds_bos: bool) -> None:
    """Have the tokenizer write the tokens that begin and end a text which no template has written."""
    ends: dict[str, int] = {}
    for name, key, default in (("bos", ADD_BOS, adds_bos), ("eos", ADD_EOS, False)):
        if not metadata.flag(key, default=default):
            continue
        id_ = special_id(metadata, name)
        if id_ is None or id_ >= len(vocabulary.texts):
            raise metadata.broken(key, f"asks for a token that is not among the {len(vocabulary.texts)}")
        ends[name] = id_
    if ends:
        single = [*(["bos"] if "bos" in ends else []), "$A", *(["eos"] if "eos" in ends else [])]
        texts = vocabulary.texts
        named = [{"id": name, "ids": [id_], "tokens": [texts[id_]]} for name, id_ in ends.items()]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=named)


def _unsupported(metadata: GgufKeys, cause: str) -> ModelLoadError:
    return ModelLoadError("model_unsupported", f"{metadata.path}: {cause}")

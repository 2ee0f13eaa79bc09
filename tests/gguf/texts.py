"""Tokenizers as keys of GGUF files, and texts to try them on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from neuron.models.gguf.vocabulary import CONTROL, NORMAL, USER_DEFINED
from neuron.models.tiny import load_handbook

SAMPLES = [
    "Hello world! It's 12345 o'clock, isn't it? WE'RE here.",
    "  two spaces,\ttab\n\n  newline \r\n end   ",
    "naïve café Ünïcode Straße Ⅷ ½ 東京タワー 안녕하세요 привет мир ไทย",
    "x = foo(bar, 3.14159) // HTTPServer camelCase snake_case __init__",
    "<|im_start|>user\nhi<|im_end|> <tool> a\u0301 e\u0301 \U0001f600\U0001f44d\u200d",
    "",
    " ",
    "\u00a0\u3000",
]
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
OF_USERS = ["<tool>"]


def corpus() -> list[str]:
    handbook = load_handbook()
    texts = [text for entry in handbook.entries for text in (*entry.questions, entry.answer)]
    return texts + SAMPLES * 4


def byte_level(size: int = 700) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary and merges that are learned from the corpus."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def byte_level_keys(
    vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]], pre: str
) -> dict[str, Any]:
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [NORMAL] * len(tokens) + [CONTROL] * len(CONTROLS) + [USER_DEFINED] * len(OF_USERS)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *CONTROLS, *OF_USERS],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": len(tokens) + 2,
    }


def tokenizer_keys(directory: Path, pre: str) -> dict[str, Any]:
    """Return the keys of a directory's byte-level tokenizer and of its template."""
    data = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token for token in data["added_tokens"]}
    ids = data["model"]["vocab"] | {text: token["id"] for text, token in added.items()}
    tokens = sorted(ids, key=ids.__getitem__)
    kinds = {text: CONTROL if token["special"] else USER_DEFINED for text, token in added.items()}
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kinds.get(token, NORMAL) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in data["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.chat_template": (directory / "chat_template.jinja").read_text(encoding="utf-8"),
    }


def train_sentencepiece(path: Path) -> Path:
    """Return the file of a SentencePiece model that is learned from the corpus."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_prefix=str(path / "tokenizer"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<tool>", "▁▁"],
        minloglevel=2,
    )
    return path / "tokenizer.model"


def sentencepiece_keys(path: Path) -> dict[str, Any]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ids = range(model.vocab_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [model.id_to_piece(id_) for id_ in ids],
        "tokenizer.ggml.scores": [float(model.get_score(id_)) for id_ in ids],
        "tokenizer.ggml.token_type": [_kind(model, id_) for id_ in ids],
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
    }


def _kind(model: Any, id_: int) -> int:
    kinds = {"is_unknown": 2, "is_control": 3, "is_unused": 5, "is_byte": 6}
    found = next((kind for name, kind in kinds.items() if getattr(model, name)(id_)), NORMAL)
    return USER_DEFINED if found == NORMAL and model.id_to_piece(id_) in {"<tool>", "▁▁"} else found


def write_keys(path: Path, keys: Mapping[str, Any], architecture: str = "llama") -> Path:
    """Write a file with keys and one tensor, which nothing reads."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        add_key(writer, key, value)
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_key(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)

"""A byte-level BPE learned from the handbook. Every byte has a token, so any text survives the round trip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from neuron.models.tiny import WEIGHTS_DIR, Handbook

VOCABULARY = 1536
CONTEXT = 40960
END_OF_TURN, END_OF_TEXT = "<|im_end|>", "<|endoftext|>"
CONTROL = [END_OF_TEXT, "<|im_start|>", END_OF_TURN]
# Not "special": a detokenizer that drops special tokens must leave these to the parsers after it.
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
# A word with the space before it, a digit, a run of other characters, or white space.
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


def corpus(handbook: Handbook, extra: list[str]) -> Iterator[str]:
    for entry in handbook.entries:
        yield from entry.questions
        yield from [entry.answer] * 4  # answers are generated, so they deserve the longest tokens
        yield entry.reasoning or ""
        for result in entry.tool.results if entry.tool else ():
            yield from (result.content, result.answer)
    yield from (json.dumps(tool) for tool in handbook.tools.values())
    yield from extra


def build_tokenizer(handbook: Handbook, extra: list[str]) -> Any:
    """Return a tokenizer of transformers with the template of `WEIGHTS_DIR`, learned from `extra` as well."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKERS),
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(handbook, extra), trainer)
    bpe.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=(WEIGHTS_DIR / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def save_tokenizer(tokenizer: Any, out: Path) -> None:
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if key not in {"is_local", "local_files_only"}}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that every release of transformers knows
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

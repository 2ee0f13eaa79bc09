"""What a GGUF file says about text: tokenizer, special and stop tokens, chat templates, sampling defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from neuron.models.gguf.container import read_container
from neuron.models.gguf.metadata import GgufKeys
from neuron.models.gguf.split_files import GgufFiles
from neuron.models.gguf.tokenizer import build_tokenizer, special_id
from neuron.models.gguf.vocabulary import CONTROL, USER_DEFINED, Vocabulary

_TEMPLATE = "tokenizer.chat_template"
_SAMPLING = "general.sampling."
_NAMED = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
    "sep_token": "seperator",  # as the format spells it
    "mask_token": "mask",
}
# generation_config.json's fields by the keys of their values.
_DEFAULTS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
_ENDS = "eos", "eot", "eom"  # of a text, a turn, a message
# Added tokens that end an answer, whether a key names them or not: files have room for one of each kind.
_STOPS = frozenset({
    *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"),
    *("<|return|>", "<|call|>", "<end_of_turn>", "<turn|>", "<end_of_utterance>", "<EOT>", "[EOT]", "[e~["),
    "<｜end▁of▁sentence｜>",
})  # fmt: skip
_ENDS_A_MESSAGE = "<|end|>"
_END_ANSWERS = {"<|return|>", "<|call|>"}  # where there are both, a message that has ended may go on


@dataclass(frozen=True, slots=True)
class GgufText:
    """What Hugging Face has in files: the tokenizer, and the fields of three JSON files."""

    tokenizer: Tokenizer
    config: dict[str, Any]
    generation: dict[str, Any]
    naming: dict[str, Any]  # of tokenizer_config.json


def read_gguf_text(path: Path) -> GgufText:
    """Return what a model's file, or the first of several, says.

    Raises ModelLoadError naming file and key.
    """
    container = read_container(path)
    metadata = GgufKeys(GgufFiles(path, container.values, container.tensors))
    tokenizer, vocabulary = build_tokenizer(metadata)
    config = {
        "bos_token_id": special_id(metadata, "bos"),
        "eos_token_id": _stop_ids(metadata, vocabulary),
    }
    return GgufText(tokenizer, config, _generation(metadata), _naming(metadata, vocabulary))


def _stop_ids(metadata: GgufKeys, vocabulary: Vocabulary) -> list[int]:
    """Return the tokens that end an answer, that of the end of a text first."""
    named = (vocabulary.text(special_id(metadata, name)) for name in _ENDS)
    added = vocabulary.of(CONTROL, USER_DEFINED)
    found = dict.fromkeys([text for text in named if text is not None])
    found |= dict.fromkeys(text for text in added if text in _STOPS)
    if set(added) >= _END_ANSWERS:
        found.pop(_ENDS_A_MESSAGE, None)
    ids = vocabulary.ids
    return [ids[text] for text in found]


def _naming(metadata: GgufKeys, vocabulary: Vocabulary) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, special in _NAMED.items():
        if (text := vocabulary.text(special_id(metadata, special))) is not None:
            found[name] = text
    if templates := _templates(metadata):
        found["chat_template"] = templates
    return found


def _templates(metadata: GgufKeys) -> dict[str, str]:
    """Return the chat templates by name; that of plain chats is called default."""
    found = {"default": metadata.text(_TEMPLATE)} if metadata.has(_TEMPLATE) else {}
    for key in metadata.names(f"{_TEMPLATE}."):
        found[key.removeprefix(f"{_TEMPLATE}.")] = metadata.text(key)
    return found


def _generation(metadata: GgufKeys) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, key in _DEFAULTS.items():
        name = _SAMPLING + key
        if metadata.has(name):
            found[field] = metadata.whole(name, least=0) if key == "top_k" else metadata.number(name)
    if found.get("temperature") == 0:
        found["do_sample"] = False
    return found

"""A model directory without weights: a tokenizer with a token per byte, ChatML with tools and reasoning."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END = "<|im_end|>"
CONTEXT = 4096
TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' ~ tools | tojson ~ '<tool_call></tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ (message.content or '') ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
{%- if enable_thinking is defined and enable_thinking %}{{ '<think>\\n' }}{% endif %}"""


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", END)])
    markers = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in markers])
    return tokenizer


def write_model(directory: Path, *, template: str | None = TEMPLATE, generation: object = None) -> Path:
    directory.mkdir(parents=True)
    tokenizer = byte_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    naming = {"eos_token": END, "chat_template": template}
    if generation is None:
        generation = {"do_sample": False, "eos_token_id": [tokenizer.token_to_id(END)]}
    files = {"config.json": {"model_type": "fake"}, "tokenizer_config.json": naming}
    for name, value in (files | {"generation_config.json": generation}).items():
        (directory / name).write_text(json.dumps(value))
    return directory

"""A model directory with real weights that follow a script, and a chat template that is strict about roles.

The weights are one table: after token i comes token `follows[i]`, whatever stood before. Each call of the
script is one token, and the template ends the prompt with a token that names the turn, so the model makes the
calls one after the other and then says its last words. Words that are not of the script are all one token:
what a coding agent says before its user does is long.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.device.zoo import save
from tests.stubs.script import Call

CONTEXT = 65_536  # tokens
END = "<|end|>"
CERTAIN = 10.0  # makes one logit so large that no temperature draws another token

TEMPLATE = """\
{%- set turn = namespace(of='user', tools=0) %}
{%- set names = tools | default([], true) | map(attribute='function.name') | list %}
{%- for message in messages %}
{%- set text = message.content if message.content is string else '' %}
{%- if message.role == 'system' %}
{%- if not loop.first %}{{- raise_exception('Only the first message may be of the system.') }}{% endif %}
{{- '<|system|> ' ~ text ~ ' <|end|> ' }}
{%- elif message.role not in turn.of.split() %}
{{- raise_exception('After these messages comes one of the ' ~ turn.of ~ ', not of the ' ~ message.role) }}
{%- elif message.role == 'tool' %}
{{- '<|tool|> ' ~ text ~ ' <|end|> ' }}
{%- set turn.of, turn.tools = 'tool assistant', turn.tools + 1 %}
{%- elif message.role == 'user' %}
{{- '<|user|> ' ~ text ~ ' <|end|> ' }}
{%- set turn.of = 'assistant' %}
{%- else %}
{{- '<|assistant|> ' ~ text }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n' ~ {'name': call.function.name, 'arguments': call.function.arguments} | tojson ~ '\\n</tool_call>' }}
{%- endfor %}
{{- ' <|end|> ' }}
{%- set turn.of = 'tool' if message.tool_calls else 'user' %}
{%- endif %}
{%- endfor %}
{%- if tools %}{{- '<|tools|> ' ~ tools | tojson ~ ' <|end|> ' }}{% endif %}
{%- if add_generation_prompt %}
{{- '<|assistant|> ' ~ ('<|turn_' ~ turn.tools ~ '|>' if 'FIRST' in names else '<|last|>') }}
{%- endif %}"""  # noqa: E501 - lines of the template


def write_scripted_model(directory: Path, calls: Sequence[Call], words: str = "All done.") -> Path:
    """A directory of the model that makes these calls, if the tool of the first one is offered."""
    said = [_call_text(*call) for call in calls]
    turns = [f"<|turn_{number}|>" for number in range(len(calls) + 1)]
    tokens = ["<unk>", END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>", "<|last|>"]
    tokens += [*turns, *said, words]
    follows = dict.fromkeys(tokens, END) | dict(zip(turns, [*said, words], strict=True)) | {"<|last|>": words}
    save(
        directory,
        vocab_size=64,
        hidden_size=64,
        num_hidden_layers=1,
        max_position_embeddings=CONTEXT,
        edit=lambda model: _follow(model, {tokens.index(a): tokens.index(b) for a, b in follows.items()}),
    )
    _tokenizer(tokens, plain={*said, words}).save(str(directory / "tokenizer.json"))
    template = TEMPLATE.replace("FIRST", calls[0][0])
    files = {"tokenizer_config.json": {"eos_token": END, "chat_template": template}}
    files["generation_config.json"] = {"do_sample": False, "eos_token_id": [tokens.index(END)]}
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value))
    return directory


def _call_text(name: str, arguments: dict[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def _tokenizer(tokens: Sequence[str], plain: set[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    special = [token for token in tokens[1:] if token not in plain]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in sorted(plain)])
    return tokenizer


def _follow(model: Any, follows: dict[int, int]) -> None:
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0 if "norm" in name else 0.0)
    model.get_input_embeddings().weight.data.fill_diagonal_(1.0)
    for token, following in follows.items():
        model.get_output_embeddings().weight.data[following, token] = CERTAIN

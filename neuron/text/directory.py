"""What a model's directory says about text, read into a `ModelText`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import TemplateSyntaxError
from tokenizers import Tokenizer

from neuron.text.model_text import GenerationDefaults, ModelText
from neuron.text.notations.known import choose_notation, notations_for
from neuron.text.notations.notation import Notation
from neuron.text.reasoning import KNOWN_MARKERS, ReasoningMarkers
from neuron.text.response.notation import notation_of_checkpoint
from neuron.text.template import ChatTemplate
from neuron.text.token_bytes import TokenBytes

Json = dict[str, Any]


class BrokenModelError(Exception):
    """A file of the model directory is missing or wrong; the message names it and the cause."""


class _Generation(msgspec.Struct, frozen=True):
    """The fields of `generation_config.json` that are read here."""

    eos_token_id: int | list[int] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None


def read_model_text(directory: Path, tool_format: str | None = None) -> ModelText:
    """What the Hugging Face directory says about text; blocks on the disk.

    `tool_format` names a known notation; when absent, the chat template decides. Raises `BrokenModelError`.
    """
    config = _read_json(directory / "config.json", required=True)
    generation = _read_generation(directory / "generation_config.json")
    naming = _read_json(directory / "tokenizer_config.json")
    tokenizer = _read_tokenizer(directory / "tokenizer.json")
    tokens = _named_tokens(naming, tokenizer, config)
    template = _read_template(directory, naming, tokens)
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    notation = notation_of_checkpoint(
        naming.get("response_template"), tokens=special, written=_notation(template, tool_format, tokenizer)
    )
    splits_reasoning = notation is not None and notation.splits_reasoning
    return ModelText(
        tokenizer=tokenizer,
        template=template,
        eos_ids=_eos_ids(generation, config, tokenizer, tokens),
        hidden_ids=_hidden_ids(tokenizer, notation),
        defaults=_defaults(generation),
        reasoning=None if splits_reasoning else _reasoning(tokenizer, template),
        notation=notation,
        token_bytes=TokenBytes(tokenizer),
    )


def _notation(template: ChatTemplate | None, named: str | None, tokenizer: Tokenizer) -> Notation | None:
    known = notations_for(token.content for token in tokenizer.get_added_tokens_decoder().values())
    if named is not None:
        return known[named]
    if template is None or not template.mentions("tools"):
        return None
    return choose_notation(template.source)


def _read_json(path: Path, *, required: bool = False) -> Json:
    if not path.exists() and not required:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BrokenModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BrokenModelError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BrokenModelError(f"{path}: must hold a JSON object")
    return value


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.exists():
        raise BrokenModelError(f"{path}: missing; a model needs a fast tokenizer file")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise BrokenModelError(f"{path}: not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _named_tokens(naming: Json, tokenizer: Tokenizer, config: Json) -> dict[str, str]:
    """bos_token, eos_token and their like, by name; by their ids in config.json where they are not named."""
    found: dict[str, str] = {}
    for name in ("bos_token", "eos_token"):
        token_id = config.get(name.replace("token", "token_id"))
        if isinstance(token_id, int) and (token := tokenizer.id_to_token(token_id)):
            found[name] = token
    for name, value in naming.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _read_template(directory: Path, naming: Json, tokens: Mapping[str, str]) -> ChatTemplate | None:
    path = directory / "chat_template.jinja"
    if path.exists():
        source: Any = path.read_text(encoding="utf-8")
    else:
        path = directory / "chat_template.json"
        source = _read_json(path).get("chat_template")
        if source is None:
            path = directory / "tokenizer_config.json"
            source = naming.get("chat_template")
    if isinstance(source, list):
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("tool_use") or named.get("default") or next(iter(named.values()), None)
    if not isinstance(source, str):
        return None
    try:
        return ChatTemplate(source, tokens)
    except TemplateSyntaxError as error:
        raise BrokenModelError(f"{path}: chat template, line {error.lineno}: {error.message}") from error


def _eos_ids(
    generation: _Generation, config: Json, tokenizer: Tokenizer, tokens: Mapping[str, str]
) -> tuple[int, ...]:
    ids: list[int] = []
    for value in (generation.eos_token_id, config.get("eos_token_id")):
        if isinstance(value, int):
            ids.append(value)
        else:
            ids += value or []
    named = tokenizer.token_to_id(tokens.get("eos_token", ""))
    return tuple(dict.fromkeys([*ids, *([] if named is None else [named])]))


def _hidden_ids(tokenizer: Tokenizer, notation: Notation | None) -> frozenset[int]:
    """The special tokens, which leave no text, without those that parsers look for."""
    visible = {marker for known in KNOWN_MARKERS for marker in (known.open, known.close)}
    if notation:
        visible |= notation.visible
    added = tokenizer.get_added_tokens_decoder()
    return frozenset(id_ for id_, token in added.items() if token.special and token.content not in visible)


def _read_generation(path: Path) -> _Generation:
    try:
        return msgspec.convert(_read_json(path), _Generation)
    except msgspec.ValidationError as error:
        raise BrokenModelError(f"{path}: {error}") from error


def _defaults(generation: _Generation) -> GenerationDefaults:
    given = {name: getattr(generation, name) for name in ("top_p", "top_k", "min_p", "repetition_penalty")}
    temperature = 0.0 if generation.do_sample is False else generation.temperature
    return GenerationDefaults(
        temperature=1.0 if temperature is None else temperature,
        max_tokens=generation.max_new_tokens,
        **{name: value for name, value in given.items() if value is not None},
    )


def _reasoning(tokenizer: Tokenizer, template: ChatTemplate | None) -> ReasoningMarkers | None:
    def knows(marker: str) -> bool:
        return tokenizer.token_to_id(marker) is not None or bool(template and template.mentions(marker))

    return next((known for known in KNOWN_MARKERS if knows(known.open) and knows(known.close)), None)

"""What a model's files say about text, read into a `ModelText`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from tokenizers import Tokenizer

from neuron.text.model_text import GenerationDefaults, ModelText
from neuron.text.notations.known import NOTATIONS, notations_for
from neuron.text.notations.notation import Notation
from neuron.text.reasoning import KNOWN_MARKERS, ReasoningMarkers
from neuron.text.rendering import TemplateRefusal, fitted_template
from neuron.text.response.notation import notation_of_checkpoint
from neuron.text.sentence_prompts import FILE as PROMPTS
from neuron.text.sentence_prompts import read_prompts
from neuron.text.template import ChatTemplate
from neuron.text.template_files import BrokenTemplateError, NamedTemplate, read_templates
from neuron.text.token_bytes import TokenBytes
from neuron.text.tokenizer_file import BrokenTokenizerError, read_tokenizer
from neuron.text.traits.fitted_template import FittedTemplate
from neuron.text.traits.probing import known_thoughts

Json = dict[str, Any]
T = TypeVar("T")

MAX_TOKENS = 1 << 24  # of a vocabulary; the largest ones have 300,000


class BrokenModelError(Exception):
    """A file of the model directory is missing or wrong; the message names it and the cause."""


_TokenId = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 32)]  # tokenizers' own; negative: there is none


class _Config(msgspec.Struct, frozen=True):
    """The fields of `config.json` that are read here."""

    bos_token_id: _TokenId | list[_TokenId] | None = None
    eos_token_id: _TokenId | list[_TokenId] | None = None


class _Generation(msgspec.Struct, frozen=True):
    """The fields of `generation_config.json` that are read here."""

    eos_token_id: _TokenId | list[_TokenId] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TextSettings:
    """What an operator says of a model's text; what is None the directory says.

    `chat_template` is a template or the path of one, `tool_format` a key of NOTATIONS, `reasoning_format` one
    of `reasoning_formats`.
    """

    chat_template: str | None = None
    tool_format: str | None = None
    reasoning_format: str | None = None


_NO_SETTINGS = TextSettings()


class Fields(NamedTuple):
    """The fields of a JSON object, and the file that they stand in."""

    path: Path
    values: Json


@dataclass(frozen=True, slots=True)
class TextFiles:
    """What a model's files say about text, in the fields that Hugging Face's files have."""

    tokenizer: Tokenizer
    config: Fields  # of config.json
    generation: Fields  # of generation_config.json
    naming: Fields  # of tokenizer_config.json
    has_template_files: bool  # beside that of `naming`


FitTemplate = Callable[[ChatTemplate, Mapping[str, bool], str | None], FittedTemplate | TemplateRefusal]


def read_model_text(
    directory: Path, settings: TextSettings = _NO_SETTINGS, fit: FitTemplate = fitted_template
) -> ModelText:
    """What the Hugging Face directory says about text; blocks on the disk, and while `fit` probes templates.

    Raises `BrokenModelError`, and whatever `fit` raises.
    """
    config = _read_json(directory / "config.json", required=True)
    generation = _read_json(directory / "generation_config.json")
    naming = _read_json(directory / "tokenizer_config.json")
    try:
        tokenizer = read_tokenizer(directory)
    except BrokenTokenizerError as error:
        raise BrokenModelError(str(error)) from error
    try:
        prompts = read_prompts(directory)
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenModelError(f"{directory / PROMPTS}: cannot be read: {error}") from error
    files = TextFiles(tokenizer, config, generation, naming, has_template_files=True)
    return replace(model_text(files, settings, fit), prompts=prompts)


def model_text(
    files: TextFiles, settings: TextSettings = _NO_SETTINGS, fit: FitTemplate = fitted_template
) -> ModelText:
    """What a model's files say about text; blocks while `fit` probes templates.

    Raises `BrokenModelError`, and whatever `fit` raises.
    """
    config = _convert(files.config, _Config)
    generation = _convert(files.generation, _Generation)
    naming, tokenizer = files.naming.values, files.tokenizer
    tokens = _named_tokens(naming, tokenizer, config)
    try:
        templates = read_templates(
            files.naming.path, naming, tokens, settings.chat_template, has_files=files.has_template_files
        )
    except BrokenTemplateError as error:
        raise BrokenModelError(str(error)) from error
    added_by_id = tokenizer.get_added_tokens_decoder()
    added = {token.content: token.special for token in added_by_id.values()}
    notations = notations_for(added)
    default, tool_use = (_fitted(named, added, settings, fit) for named in templates)
    told = tool_use or default
    name = told.traits.notation if told else None
    notation = notation_of_checkpoint(
        naming.get("response_template") if settings.tool_format is None else None,
        tokens=[token for token, is_special in added.items() if is_special],
        written=None if name is None else notations[name],
    )
    reasoning = _reasoning(default, tokenizer, settings)
    if notation is not None and notation.splits_reasoning:
        reasoning = None  # its parser does that
    return ModelText(
        tokenizer=tokenizer,
        template=default,
        tool_template=tool_use,
        eos_ids=_eos_ids(files, generation, config, tokens),
        hidden_ids=_hidden_ids(tokenizer, notation, reasoning),
        defaults=_defaults(generation),
        reasoning=reasoning,
        notation=notation,
        token_bytes=TokenBytes(tokenizer),
        added_tokens={token.content: id_ for id_, token in added_by_id.items()},
        longest_token=max(map(len, tokenizer.get_vocab()), default=1),
    )


def reasoning_formats() -> dict[str, ReasoningMarkers | None]:
    """The markers of thoughts by the name that settings give them: the opening one."""
    known = known_thoughts(NOTATIONS.values())
    return {"none": None} | {markers.open: markers for markers in known if markers.open}


def _fitted(
    named: NamedTemplate | None, added: Mapping[str, bool], settings: TextSettings, fit: FitTemplate
) -> FittedTemplate | None:
    if named is None:
        return None
    found = fit(named.template, added, settings.tool_format)
    if isinstance(found, TemplateRefusal):
        raise BrokenModelError(f"{named.place}: the chat template {found.message}")
    return found


def _reasoning(
    template: FittedTemplate | None, tokenizer: Tokenizer, settings: TextSettings
) -> ReasoningMarkers | None:
    if settings.reasoning_format is not None:
        return reasoning_formats()[settings.reasoning_format]
    if template is not None:
        return ReasoningMarkers(*template.traits.thought) if template.traits.thought else None
    known = known_thoughts(NOTATIONS.values())
    knows = tokenizer.token_to_id
    return next((pair for pair in known if None not in {knows(pair.open), knows(pair.close)}), None)


def _read_json(path: Path, *, required: bool = False) -> Fields:
    if not path.exists() and not required:
        return Fields(path, {})
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # JSON can spell half a character, UTF-8 cannot
    except OSError as error:
        raise BrokenModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenModelError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BrokenModelError(f"{path}: must hold a JSON object")
    return Fields(path, value)


def _named_tokens(naming: Json, tokenizer: Tokenizer, config: _Config) -> dict[str, str]:
    """bos_token, eos_token and their like, by name; by their ids in config.json where they are not named."""
    found: dict[str, str] = {}
    for name, token_id in (("bos_token", config.bos_token_id), ("eos_token", config.eos_token_id)):
        if not isinstance(token_id, int) or not 0 <= token_id < MAX_TOKENS:
            continue
        if token := tokenizer.id_to_token(token_id):
            found[name] = token
    for name, value in naming.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _eos_ids(
    files: TextFiles, generation: _Generation, config: _Config, tokens: Mapping[str, str]
) -> tuple[int, ...]:
    ids = _ids(files.generation.path, generation.eos_token_id)
    ids += _ids(files.config.path, config.eos_token_id)
    named = files.tokenizer.token_to_id(tokens.get("eos_token", ""))
    return tuple(dict.fromkeys([*ids, *([] if named is None else [named])]))


def _ids(path: Path, value: Any) -> list[int]:
    """The ids that end an answer; negative ones stand for none."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    for token_id in listed:
        if not isinstance(token_id, int) or token_id >= MAX_TOKENS:
            raise BrokenModelError(f"{path}: eos_token_id must be the id of a token, or several")
    return [token_id for token_id in listed if token_id >= 0]


def _hidden_ids(
    tokenizer: Tokenizer, notation: Notation | None, reasoning: ReasoningMarkers | None
) -> frozenset[int]:
    """The special tokens, which leave no text, without those that parsers look for."""
    pairs = [*KNOWN_MARKERS, reasoning] if reasoning else KNOWN_MARKERS
    visible = {marker for known in pairs for marker in (known.open, known.close)}
    if notation:
        visible |= notation.visible
    added = tokenizer.get_added_tokens_decoder()
    return frozenset(id_ for id_, token in added.items() if token.special and token.content not in visible)


def _convert(fields: Fields, kind: type[T]) -> T:
    try:
        return msgspec.convert(fields.values, kind)
    except msgspec.ValidationError as error:
        raise BrokenModelError(f"{fields.path}: {error}") from error


def _defaults(generation: _Generation) -> GenerationDefaults:
    given = {name: getattr(generation, name) for name in ("top_p", "top_k", "min_p", "repetition_penalty")}
    temperature = 0.0 if generation.do_sample is False else generation.temperature
    return GenerationDefaults(
        temperature=1.0 if temperature is None else temperature,
        max_tokens=generation.max_new_tokens,
        **{name: value for name, value in given.items() if value is not None},
    )

"""A page for each settings file and for each setting, from the models: type, default, bounds and meaning."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.config.models_toml import Catalogue
from neuron.config import NeuronConfig

FILES: dict[str, tuple[type[BaseModel], str, str]] = {
    "cortex.toml": (CortexConfig, "CORTEX_", "Of the gateway and all that belongs to it."),
    "models.toml": (Catalogue, "", "What may be loaded, and where: the profiles."),
    "neuron.toml": (NeuronConfig, "NEURON_", "Of a GPU host's daemon."),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of a settings file; `env` is its variable, empty if it has none."""

    path: tuple[str, ...]
    key: str
    field: FieldInfo
    env: str

    @property
    def name(self) -> str:
        """Its address: table and key."""
        return ".".join((*self.path, self.key))

    @property
    def names(self) -> list[str]:
        """Its key, and what else it may be called."""
        others = getattr(self.field.validation_alias, "choices", ())
        return [self.key, *(str(name) for name in others if name != self.key)]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a settings file; `head` is how the file begins it, empty for keys at its top."""

    head: str
    text: str
    settings: list[Setting]


def pages() -> dict[str, str]:
    """The page of each file and of each setting, by its name below `settings/`."""
    made = {}
    for file, (model, prefix, intro) in FILES.items():
        stem, found = file.replace(".", "-"), list(tables(model, (), prefix))
        made[f"{stem}.md"] = "\n".join(file_page(file, prefix, intro, found))
        made |= {
            f"{stem}/{each.name}.md": "\n".join(setting_page(file, table, each))
            for table in found
            for each in table.settings
        }
    return made


def tables(
    model: type[BaseModel], path: tuple[str, ...], prefix: str, *, many: bool = False
) -> Iterator[Table]:
    """The table of a model, and then those below it."""
    name = ".".join(path)
    head = "" if not path else f"[[{name}]]" if many else f"[{name}]"
    made = Table(head, " ".join((model.__doc__ or "").split()) if path else "", [])
    below = []
    for key, field in model.model_fields.items():
        inner, several = table_of(field.annotation)
        if inner:
            below.append((key, inner, several))
            continue
        env = f"{prefix}{'__'.join((*path, key)).upper()}" if prefix and not many else ""
        made.settings.append(Setting(path, key, field, env))
    yield made
    for key, inner, several in below:
        yield from tables(inner, (*path, key), prefix, many=several or many)


def file_page(file: str, prefix: str, intro: str, found: list[Table]) -> Iterator[str]:
    """The lines of a file's page: its tables, whose keys lead to their pages."""
    stem = file.replace(".", "-")
    yield from (f"# {file}", "", intro, "")
    if prefix:
        yield from (f"`{prefix}SECTION__KEY` in the environment overrides the same key in the file.", "")
    for table in found:
        if table.head:
            yield from (f"## `{table.head}`", "", table.text, "")
        if table.settings:
            yield from ("| key | default | |", "| --- | --- | --- |")
        for each in table.settings:
            text = sentence(each.field.description).replace("|", "\\|")
            yield f"| [`{each.key}`]({stem}/{each.name}.md) | {default(each.field)} | {text} |"
        yield ""


def setting_page(file: str, table: Table, setting: Setting) -> Iterator[str]:
    """The lines of a setting's page."""
    back = f"[{file}](../{file.replace('.', '-')}.md)"
    place = f"In the table `{table.head}` of {back}." if table.head else f"At the top of {back}."
    yield from (f"# `{setting.name}`", "", place, "", sentence(setting.field.description), "")
    yield f"- Type: {kind(setting.field.annotation)}{bounds(setting.field)}"
    yield f"- Default: {default(setting.field)}"
    if setting.env:
        yield f"- Environment: `{setting.env}`"
    if others := setting.names[1:]:
        yield f"- Also called: {', '.join(f'`{name}`' for name in others)}"
    yield ""


def table_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model of a table, and whether there are many of it."""
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part, typing.get_origin(annotation) in {list, dict}
    return None, False


def sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def kind(annotation: Any) -> str:
    """A type in words; TypeAliasType and Annotated are looked through."""
    annotation = getattr(annotation, "__value__", annotation)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind(parts[0])
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(kind(part) for part in parts if part is not type(None))
    if origin is list:
        return f"a list of {kind(parts[0])}"
    if origin is dict:
        return "a table"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    return words.get(annotation, "text")


def bounds(field: FieldInfo) -> str:
    named = {
        "gt": "more than",
        "ge": "at least",
        "lt": "less than",
        "le": "at most",
        "min_length": "length from",
    }
    found = [
        f"{words} {getattr(rule, name)}"
        for rule in field.metadata
        for name, words in named.items()
        if getattr(rule, name, None) is not None
    ]
    return f" ({', '.join(found)})" if found else ""


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: it has to be set"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None or value == "" else f"`{json.dumps(value, default=str)}`"

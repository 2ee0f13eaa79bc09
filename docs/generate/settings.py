"""A page for each settings file, from its model: every key with type, default, bounds and meaning."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
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


def pages() -> dict[str, str]:
    """The page of each file, by its name below `settings/`."""
    return {name.replace(".", "-") + ".md": page(name, *of) for name, of in FILES.items()}


def page(name: str, model: type[BaseModel], prefix: str, intro: str) -> str:
    lines = [f"# {name}", "", intro, ""]
    if prefix:
        lines += [f"`{prefix}SECTION__KEY` in the environment overrides the same key in the file.", ""]
    return "\n".join([*lines, *section(model, (), prefix)])


def section(
    model: type[BaseModel], path: tuple[str, ...], prefix: str, *, many: bool = False
) -> Iterator[str]:
    """The lines of one table, and then of those below it."""
    if path:
        head = ".".join(path)
        yield from (f"## `[[{head}]]`" if many else f"## `[{head}]`", "")
        if model.__doc__:
            yield from (" ".join(model.__doc__.split()), "")
    below = []
    for key, field in model.model_fields.items():
        inner, several = table_of(field.annotation)
        if inner:
            below.append((key, inner, several))
            continue
        yield from setting(key, field, path, "" if many else prefix)
    for key, inner, several in below:
        yield from section(inner, (*path, key), prefix, many=several or many)


def table_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model of a table, and whether there are many of it."""
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part, typing.get_origin(annotation) in {list, dict}
    return None, False


def setting(key: str, field: FieldInfo, path: tuple[str, ...], prefix: str) -> Iterator[str]:
    names = [key, *(str(name) for name in getattr(field.validation_alias, "choices", ()) if name != key)]
    yield from ("### " + ", ".join(f"`{name}`" for name in names), "")
    if field.description:
        yield from (sentence(field.description), "")
    yield f"- Type: {kind(field.annotation)}{bounds(field)}"
    yield f"- Default: {default(field)}"
    if prefix:
        yield f"- Environment: `{prefix}{'__'.join((*path, key)).upper()}`"
    yield ""


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


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

"""The chat templates of a model: one for chats, and sometimes another for chats with tools.

An empty one, as some base models have, is none: it would load and then refuse every chat.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from neuron.text.template import ChatTemplate

log = logging.getLogger("neuron.text")

_TEXT = re.compile(r"\{[{%#]")  # in a setting: a template and not the path of one


class BrokenTemplateError(Exception):
    """A file with templates is wrong; the message names it and the cause."""


class NamedTemplate(NamedTuple):
    """A template, not compiled yet, and where it stands."""

    place: Path | str
    template: ChatTemplate


class NamedTemplates(NamedTuple):
    """The template of plain chats, and that of chats with tools if there is another."""

    default: NamedTemplate | None = None
    tool_use: NamedTemplate | None = None


class _Source(NamedTuple):
    path: Path | str
    text: str


def read_templates(
    naming_path: Path,
    naming: Mapping[str, Any],
    tokens: Mapping[str, str],
    setting: str | None = None,
    *,
    has_files: bool = True,
) -> NamedTemplates:
    """The templates that `naming` has, the fields of the file at `naming_path`, and those in files beside it.

    `setting` replaces them: a template, or the path of one, from the directory on. Raises
    `BrokenTemplateError`.
    """
    if setting is not None:
        sources = {"default": _set(naming_path.parent, setting)}
    elif has_files:
        sources = _sources(naming_path, naming)
    else:
        sources = _of_naming(naming_path, naming)
    usual = next((name for name in sources if name != "tool_use"), None)
    default = sources.get("default") or sources.get(usual or "tool_use")
    tool_use = sources.get("tool_use")
    return NamedTemplates(
        _named_template(default, tokens),
        _named_template(tool_use, tokens) if tool_use is not default else None,
    )


def _sources(naming_path: Path, naming: Mapping[str, Any]) -> dict[str, _Source]:
    """The templates by name. A file of its own goes before the configurations."""
    directory = naming_path.parent
    files = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    found = _not_empty({path.stem: _Source(path, _text(path)) for path in files})
    path = directory / "chat_template.jinja"
    if path.exists() and (own := _not_empty({"default": _Source(path, _text(path))})):
        return found | own
    path = directory / "chat_template.json"
    configured = _configured(path)
    if configured is None:
        return _of_naming(naming_path, naming) | found
    return _not_empty({name: _Source(path, text) for name, text in _named(configured, path).items()}) | found


def _not_empty(sources: dict[str, _Source]) -> dict[str, _Source]:
    empty = [name for name, source in sources.items() if not source.text.strip()]
    for name in empty:
        log.warning("an empty chat template is passed over", extra={"file": str(sources.pop(name).path)})
    return sources


def _of_naming(path: Path, naming: Mapping[str, Any]) -> dict[str, _Source]:
    named = _named(naming.get("chat_template"), path)
    return _not_empty({name: _Source(path, text) for name, text in named.items()})


def _configured(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise BrokenTemplateError(f"{path}: not valid JSON: {error}") from error
    return value.get("chat_template") if isinstance(value, dict) else None


def _named(configured: Any, path: Path) -> dict[str, str]:
    """A text, a table of texts by name, or a list of tables with name and template."""
    if configured is None:
        return {}
    if isinstance(configured, str):
        return {"default": configured}
    if isinstance(configured, dict):
        named = [*configured.items()]
    else:
        entries = configured if isinstance(configured, list) else []
        named = [(each.get("name"), each.get("template")) for each in entries if isinstance(each, dict)]
    if not named or not all(isinstance(text, str) for pair in named for text in pair):
        raise BrokenTemplateError(f"{path}: chat_template must be a text, or templates with their names")
    return dict(named)


def _set(directory: Path, setting: str) -> _Source:
    if _TEXT.search(setting):
        return _Source("chat_template", setting)
    if not setting.strip():
        raise BrokenTemplateError("chat_template is empty; it is a template, or the path of one")
    path = directory / setting
    return _Source(path, _text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BrokenTemplateError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BrokenTemplateError(f"{path}: is not UTF-8 text (byte {error.start})") from error


def _named_template(source: _Source | None, tokens: Mapping[str, str]) -> NamedTemplate | None:
    return source and NamedTemplate(source.path, ChatTemplate(source.text, tokens))

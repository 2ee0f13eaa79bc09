"""Settings from a TOML file and environment variables, with errors that a person can act on.

`load` reads a pydantic-settings class. Every mistake is one line: file (or variable), line, key, expected and
found value. `cortex.toml`, `models.toml` and `neuron.toml` are all read this way.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

DELIMITER = "__"
SECRET_KEYS = frozenset({"api_key", "token", "url", "password"})  # their values appear in no error


class ConfigError(Exception):
    """An invalid configuration; `lines` has one sentence per mistake."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class Section(BaseModel):
    """A table of a settings file: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(BaseSettings):
    """The root of a settings file: the environment overrides the file, the file the defaults."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_nested_delimiter=DELIMITER)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


T = TypeVar("T", bound=Settings)


def load(cls: type[T], path: Path | None) -> T:
    """An instance of `cls` from the file at `path` (None: defaults) and the environment.

    Raises `ConfigError` naming each mistake.
    """
    text = _read(path) if path else ""
    values = _parse(text, path) if path else {}
    prefix = str(cls.model_config.get("env_prefix", ""))
    _refuse_unknown_variables(cls, prefix)
    try:
        return cls(**values)
    except ValidationError as error:
        raise ConfigError([_explain(item, path, text, prefix) for item in error.errors()]) from error
    except SettingsError as error:
        raise ConfigError([f"environment: {error}; the value must be JSON"]) from error


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text (byte {error.start})"]) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: not valid TOML: {error}"]) from error


def _refuse_unknown_variables(cls: type[Settings], prefix: str) -> None:
    """The library ignores `PREFIX_SECTION__KEY` with an unknown section; a typo must not be ignored."""
    known = {name.upper() for name in cls.model_fields}
    unknown = [
        name
        for name in sorted(os.environ)
        if name.startswith(prefix)
        and DELIMITER in name
        and name.removeprefix(prefix).split(DELIMITER)[0].upper() not in known
    ]
    if unknown:
        sections = ", ".join(sorted(known))
        raise ConfigError([f"environment: {name}: unknown section; known are {sections}" for name in unknown])


def _explain(error: Any, path: Path | None, text: str, prefix: str) -> str:
    loc: tuple[str | int, ...] = error["loc"]
    key = ".".join(str(part) for part in loc)
    variable = prefix + DELIMITER.join(str(part) for part in loc).upper()
    source = _variable_for(variable) or _place(path, text, loc)
    match error["type"]:
        case "extra_forbidden":
            return f"{source}: unknown key {key}"
        case "missing":
            return f"{source}: {key} is missing"
        case _:
            message = error["msg"].removeprefix("Value error, ")
            return f"{source}: {key}: {message[0].lower()}{message[1:]}{_found(loc, error['input'])}"


def _found(loc: tuple[str | int, ...], value: object) -> str:
    """The value found; empty for a table, or a URL with a password, which would show a secret."""
    hidden = (loc and loc[-1] in SECRET_KEYS) or isinstance(value, dict) or "@" in str(value)
    return "" if hidden else f" (found {value!r})"


def _variable_for(variable: str) -> str | None:
    """The environment variable that set this key or one of its parents."""
    parts = variable.split(DELIMITER)
    for end in range(len(parts), 0, -1):
        name = DELIMITER.join(parts[:end])
        if name in os.environ:
            return f"environment: {name}"
    return None


def _place(path: Path | None, text: str, loc: tuple[str | int, ...]) -> str:
    if path is None:
        return "configuration"
    line = line_of(text, loc)
    return f"{path}:{line}" if line else str(path)


def line_of(text: str, loc: tuple[str | int, ...]) -> int | None:
    """The line, from 1, of a key like `("neurons", 0, "endpoint")`, or else of its nearest table."""
    table: list[str | int] = []
    counts: dict[str, int] = {}
    best: tuple[int, int] | None = None  # (depth matched, line)
    for number, line in enumerate(text.splitlines(), 1):
        here = table
        if array := re.match(r"\s*\[\[\s*([^\]]+?)\s*\]\]", line):
            counts[array[1]] = counts.get(array[1], -1) + 1
            here = table = [*array[1].split("."), counts[array[1]]]
        elif header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            here = table = list(header[1].split("."))
        elif key := re.match(r"\s*[\"']?([\w./:-]+)[\"']?\s*=", line):
            here = [*table, key[1]]
        else:
            continue
        depth = len(here)
        if tuple(here) == loc[:depth] and (best is None or depth > best[0]):
            best = depth, number
    return best[1] if best else None

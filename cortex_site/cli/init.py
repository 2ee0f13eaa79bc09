"""`cortex init`: five answers become a cortex.toml."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import typer
from pydantic import TypeAdapter, ValidationError

from cortex_site.base.addresses import Listen
from cortex_site.base.settings_file import ConfigError
from cortex_site.config.cortex_toml import API_PORT, CortexConfig, HttpUrl

HEAD = (
    "# Written by `cortex init`. `cortex doctor` checks what it names; the documentation has all settings.\n"
)


def _state_dir() -> str:
    with suppress(ConfigError):
        return str(CortexConfig().home)
    return ""


def _directory(value: str) -> str:
    return str(Path(value).expanduser().absolute())


def _database(value: str) -> str:
    if value and urlsplit(value).scheme not in {"postgresql", "postgres"}:
        raise ValueError("expected postgresql://USER@HOST/NAME, or nothing for SQLite")
    return value


def _redis(value: str) -> str:
    if urlsplit(value).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("expected redis://HOST:6379/0 or unix:///run/redis/redis.sock")
    return value


def _node(value: str) -> str:
    return TypeAdapter(HttpUrl).validate_python(value) if value else value


class Question(NamedTuple):
    """One of the five: its option, its words, what an empty answer means, and what answers are."""

    option: str
    words: str
    default: Callable[[], str]
    check: Callable[[str], str]


QUESTIONS = (
    Question(
        "listen",
        "Where should the API listen? 0.0.0.0:31313 lets other machines in",
        lambda: f"127.0.0.1:{API_PORT}",
        TypeAdapter(Listen).validate_python,
    ),
    Question("state_dir", "Where may cortex keep its data and secrets?", _state_dir, _directory),
    Question("database", "Which PostgreSQL? Empty: SQLite in that directory", lambda: "", _database),
    Question("redis", "Which Redis?", lambda: "redis://127.0.0.1:6379/0", _redis),
    Question(
        "node", "Where is the first neuron? Empty: hosts join by `cortex join-token`", lambda: "", _node
    ),
)


def ask(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return all answers: `given` ones as they are, the others asked for at a terminal, else the defaults.

    Raises `ConfigError` for a given answer that cannot be.
    """
    answers = {}
    for question in QUESTIONS:
        value = given.get(question.option)
        if value is None and sys.stdin.isatty():
            answers[question.option] = typer.prompt(
                question.words, default=question.default(), value_proc=_proven(question)
            )
            continue
        try:
            answers[question.option] = question.check(question.default() if value is None else value)
        except ValueError as error:
            option = question.option.replace("_", "-")
            raise ConfigError([f"--{option}: {_reason(error)}"]) from error
    return answers


def _proven(question: Question) -> Callable[[str], str]:
    def check(value: str) -> str:
        try:
            return question.check(value.strip())
        except ValueError as error:
            raise typer.BadParameter(_reason(error)) from error

    return check


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return str(error)


def text_of(answers: Mapping[str, str]) -> str:
    """Return the file of the answers."""
    node = answers["node"]
    tables: dict[str, dict[str, str]] = {
        "": {"state_dir": answers["state_dir"]},
        "[gateway]": {"listen": answers["listen"]},
        "[database]": {"url": answers["database"]},
        "[redis]": {"url": answers["redis"]},
        "[[neurons]]": {"name": _name(node), "endpoint": node} if node else {},
    }
    return HEAD + "".join(_table(head, values) for head, values in tables.items() if any(values.values()))


def _table(head: str, values: Mapping[str, str]) -> str:
    lines = [f"{key} = {_quoted(value)}\n" for key, value in values.items() if value]
    return "".join(["\n", f"{head}\n" if head else "", *lines])


def _quoted(value: str) -> str:
    """A basic string: JSON's, but that DEL has to be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _name(endpoint: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", urlsplit(endpoint).hostname or "").lstrip("._-") or "node"


def write(path: Path, text: str) -> None:
    """Write a new file for its owner alone: a database's address may have a password. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)

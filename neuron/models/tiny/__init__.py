"""helexa-tiny: a model that ships with the project and knows a handbook by heart.

Greedy decoding gives each answer of `handbook.toml` word for word, so a test can compare what a client
receives with the text in that file. This module knows where the weights are and reads the handbook; it
imports no torch. `train` makes the weights again from scratch.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS_DIR = Path(__file__).with_name("helexa-tiny")
HANDBOOK_PATH = Path(__file__).with_name("handbook.toml")


@dataclass(frozen=True, slots=True)
class TaughtResult:
    """What a tool returns, and the answer that follows."""

    content: str
    answer: str


@dataclass(frozen=True, slots=True)
class TaughtCall:
    """The call that an entry answers with if the request offers its tool, and what follows on each result."""

    name: str
    arguments: Mapping[str, Any]
    results: tuple[TaughtResult, ...]


@dataclass(frozen=True, slots=True)
class HandbookEntry:
    """One question in several phrasings and the one answer to all of them."""

    question: str
    phrasings: tuple[str, ...]
    answer: str
    reasoning: str | None = None
    tool: TaughtCall | None = None

    @property
    def questions(self) -> tuple[str, ...]:
        return (self.question, *self.phrasings)


@dataclass(frozen=True, slots=True)
class Handbook:
    """All entries, and the tools by name in the form of OpenAI's `tools` field."""

    entries: tuple[HandbookEntry, ...]
    tools: Mapping[str, dict[str, Any]]

    def answer(self, question: str) -> str:
        """Return the answer to a question in any of its phrasings. Raises KeyError for an unknown one."""
        for entry in self.entries:
            if question in entry.questions:
                return entry.answer
        raise KeyError(question)


def _taught_call(raw: dict[str, Any]) -> TaughtCall:
    results = tuple(TaughtResult(**result) for result in raw["results"])
    return TaughtCall(raw["name"], raw["arguments"], results)


def _entry(raw: dict[str, Any]) -> HandbookEntry:
    tool = _taught_call(raw["tool"]) if "tool" in raw else None
    return HandbookEntry(raw["question"], tuple(raw["phrasings"]), raw["answer"], raw.get("reasoning"), tool)


@functools.cache
def load_handbook(path: Path = HANDBOOK_PATH) -> Handbook:
    """Return the handbook of a file, read once per path."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    tools = {tool["name"]: {"type": "function", "function": tool} for tool in raw["tool"]}
    return Handbook(tuple(_entry(entry) for entry in raw["entry"]), tools)

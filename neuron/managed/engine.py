"""An inference server as a row of data: how it is started, watched, put to sleep and understood.

Nothing beside these rows knows an engine. A server that speaks OpenAI's API on a port of its own, and says
when it is ready, needs a row and no code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Sleep(NamedTuple):
    """How a server gives its device's memory back and takes it again, without being started anew."""

    sleep: str  # path of a POST
    wake: str
    arguments: tuple[str, ...] = ()  # with which the server offers it
    environment: tuple[tuple[str, str], ...] = ()
    body: bytes = b""  # of both


class Symptom(NamedTuple):
    """A line of the log that says why a start failed, and the code of the error that it becomes."""

    pattern: re.Pattern[str]
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A row. Arguments may hold {model}, a path; {name}, of the model; {port}, {devices} and {fraction}."""

    name: str  # of its harness
    command: tuple[str, ...]  # the first is looked for on PATH
    arguments: tuple[str, ...]
    files: Literal["directory", "gguf"] = "directory"
    quant: tuple[str, ...] = ()  # with {quant}; none: a quant only says which file is meant
    split: tuple[str, ...] = ()  # of a model on several devices
    share: tuple[str, ...] = ()  # where the profile limits its memory
    key_variable: str = ""  # of the environment: the secret that requests must send
    options: frozenset[str] = frozenset()  # that a model may set, without dashes
    paths: frozenset[str] = frozenset()  # of inference, as neuron's own API has them
    ready_path: str = "/health"
    ready_line: re.Pattern[str] | None = None  # in its log, where the path answers too early
    progress: re.Pattern[str] | None = None  # of its load, with a group of percent
    symptoms: tuple[Symptom, ...] = ()  # the first that fits counts
    context: tuple[str, ...] = ()  # the way to the context length in an entry of `GET /v1/models`
    sleep: Sleep | None = None
    environment: tuple[tuple[str, str], ...] = field(default=())

"""What a session log holds, one JSON object per line.

Together the records are the whole session: `memory.transcript` folds them into the model's history,
`agent.replay` into what a client shows. A later version may add kinds and fields; both are skipped here and
stay in the file.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, fields
from typing import Any

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Opened:
    cwd: str
    created_at: str
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class UserSaid:
    message_id: str
    blocks: list[dict[str, Any]]  # content blocks as the client sent them
    expanded: str | None = None  # what the model reads instead, for a command from a file
    local: bool = False  # answered here; the model never sees it


@dataclass(frozen=True, slots=True)
class AssistantSaid:
    """One completion. Items, in the order shown:

    {type: "text", id, text} · {type: "thought", id, text, wire, state} · {type: "call", card, id, name,
    arguments}
    """

    items: list[dict[str, Any]]
    model: str = ""  # endpoint:model
    usage: dict[str, int] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)  # by currency
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class CardDone:
    """A tool card in its final state. `call` is the model's call; a status card of our own has none."""

    card: dict[str, Any]  # toolCallId, title, kind, status, content, locations, rawInput, rawOutput
    call: str = ""
    result: list[dict[str, Any]] = field(
        default_factory=list
    )  # {text} or {mime_type, data}: what the model gets
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    entries: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Chose:
    mode: str | None = None
    model: str | None = None
    effort: str | None = None


@dataclass(frozen=True, slots=True)
class Titled:
    title: str


@dataclass(frozen=True, slots=True)
class AgentSaid:
    """Text of ours in the conversation: shown, never sent to a model."""

    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Compacted:
    summary: str
    keep_from: int  # messages before this index of the whole history are replaced by the summary
    compaction_id: str = ""  # as it was shown
    used_tokens: int = 0  # about what the next prompt will hold


@dataclass(frozen=True, slots=True)
class Undone:
    """The last turn no longer counts."""

    message_id: str


Record = (
    Opened | UserSaid | AssistantSaid | CardDone | Planned | Chose | Titled | AgentSaid | Compacted | Undone
)

_KINDS: dict[str, type[Any]] = {
    "opened": Opened,
    "user": UserSaid,
    "assistant": AssistantSaid,
    "card": CardDone,
    "plan": Planned,
    "chose": Chose,
    "title": Titled,
    "said": AgentSaid,
    "compacted": Compacted,
    "undone": Undone,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_TYPES: dict[str, type[Any]] = {"str": str, "int": int, "bool": bool}


def encode(record: Record) -> bytes:
    body = {"t": _NAMES[type(record)], **asdict(record)}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Record | None:
    """None for a line that is damaged or of a kind that this version does not know."""
    if not line.strip():
        return None
    try:
        value = json.loads(line)
        kind = _KINDS[value["t"]]
        known = {f.name: value[f.name] for f in fields(kind) if f.name in value}
        record: Record = kind(**known)
        _check(record)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("skipped a record of the session log: %r: %.80r", error, line)
        return None
    return record


def _check(record: Record) -> None:
    """Lists of objects are lists of objects, and so on: what follows may rely on it. Raises TypeError."""
    for f in fields(record):
        value, kind = getattr(record, f.name), str(f.type)
        if kind.startswith("list") and not (
            isinstance(value, list) and all(isinstance(v, dict) for v in value)
        ):
            raise TypeError(f"{f.name} must be a list of objects")
        if kind.startswith("dict") and not isinstance(value, dict):
            raise TypeError(f"{f.name} must be an object")
        if kind in _TYPES and not isinstance(value, _TYPES[kind]):
            raise TypeError(f"{f.name} must be {kind}")

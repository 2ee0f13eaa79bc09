"""The records of a session log, each a JSON object on a line of its own.

They contain the whole session: `storage.transcript` makes the model's history of them, `agent.replay` what a
client shows. Kinds and fields that a later version has added are skipped, and stay in the file.
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
    expanded: str | None = None  # what the model reads instead of a slash command
    local: bool = False  # answered without the model, which never sees it
    command: int = 0  # index of the block that is the slash command, if there is one


@dataclass(frozen=True, slots=True)
class AssistantSaid:
    """One reply of the model. Its items, in the order in which they were shown:

    {type: "text", id, text}
    {type: "thought", id, text, wire, state}
    {type: "call", card, id, name, arguments}
    """

    items: list[dict[str, Any]]
    model: str = ""  # endpoint:model
    usage: dict[str, int] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)  # by currency
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """What a reply to a sub-agent took. The reply itself is in no history but the sub-agent's."""

    model: str
    usage: dict[str, int] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)  # by currency


@dataclass(frozen=True, slots=True)
class CardBegun:
    """A card of a sub-agent was shown. What runs at once ends in another order than it began."""

    card: str  # its toolCallId


@dataclass(frozen=True, slots=True)
class CardDone:
    """A tool card in its final state, and the result of its call."""

    card: dict[str, Any]  # toolCallId, title, kind, status, content, locations, rawInput, rawOutput
    call: str = ""  # id of the model's call; none for a status card of the agent's own
    # What the model gets, each {text} or {mime_type, data}.
    result: list[dict[str, Any]] = field(default_factory=list)
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Edited:
    """A file that a call of the turn is about to change."""

    path: str
    before: str | None  # name of the copy (`storage.copies`); None: the file did not exist
    after: str  # digest of the bytes that the change writes


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The state of the project's files (`storage.shadow_git`) before the turn with this message id."""

    message_id: str
    commit: str


@dataclass(frozen=True, slots=True)
class Planned:
    entries: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Chose:
    mode: str | None = None
    model: str | None = None
    effort: str | None = None


@dataclass(frozen=True, slots=True)
class Budgeted:
    """The totals that the session may use, as the user has chosen."""

    tokens: int = 0  # 0: no limit
    cost: dict[str, float] = field(default_factory=dict)  # by currency


@dataclass(frozen=True, slots=True)
class Titled:
    title: str


@dataclass(frozen=True, slots=True)
class AgentSaid:
    """A text of the agent's own: shown in the conversation, never sent to a model."""

    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class HookSaid:
    """Why a hook lets a turn go on: shown in the conversation, and read by the model as the user's words."""

    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Compacted:
    summary: str
    keep_from: int  # the summary replaces the messages before this index of the whole history
    compaction_id: str = ""  # as the client was shown it
    used_tokens: int = 0  # estimated length of the next prompt


@dataclass(frozen=True, slots=True)
class Undone:
    """The last turn, with this message id, is no longer part of the history."""

    message_id: str


Record = (
    Opened
    | UserSaid
    | AssistantSaid
    | Spent
    | CardBegun
    | CardDone
    | Edited
    | Checkpointed
    | Planned
    | Chose
    | Budgeted
    | Titled
    | AgentSaid
    | HookSaid
    | Compacted
    | Undone
)

_KINDS: dict[str, type[Any]] = {
    "opened": Opened,
    "user": UserSaid,
    "assistant": AssistantSaid,
    "spent": Spent,
    "begun": CardBegun,
    "card": CardDone,
    "edited": Edited,
    "checkpoint": Checkpointed,
    "plan": Planned,
    "chose": Chose,
    "budget": Budgeted,
    "title": Titled,
    "said": AgentSaid,
    "hook": HookSaid,
    "compacted": Compacted,
    "undone": Undone,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_TYPES: dict[str, type[Any]] = {"str": str, "int": int, "bool": bool}


def encode(record: Record) -> bytes:
    """Return the record's line."""
    body = {"t": _NAMES[type(record)], **asdict(record)}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Record | None:
    """Return the record, or None if the line is damaged or its kind unknown."""
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
    """Check the types of the fields, on which readers rely. Raises TypeError."""
    for f in fields(record):
        value = getattr(record, f.name)
        kind = str(f.type)
        if kind.startswith("list") and not (
            isinstance(value, list) and all(isinstance(v, dict) for v in value)
        ):
            raise TypeError(f"{f.name} must be a list of objects")
        if kind.startswith("dict") and not isinstance(value, dict):
            raise TypeError(f"{f.name} must be an object")
        if kind in _TYPES and not isinstance(value, _TYPES[kind]):
            raise TypeError(f"{f.name} must be {kind}")

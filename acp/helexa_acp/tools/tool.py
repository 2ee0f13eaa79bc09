"""The interface of tools: a description for the model, and `prepare`, which returns a `PreparedCall`.

A prepared call knows how it is shown, which permissions it needs and how it runs, and has changed nothing
yet. So `agent.tool_runner` checks, shows and approves the calls of all tools in one place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from helexa_acp.cancellation import CancelToken
from helexa_acp.provider.types import ImagePart, ToolSpec
from helexa_acp.tools.background import BackgroundCommands
from helexa_acp.tools.files import Files
from helexa_acp.tools.processes import ChildProcesses
from helexa_acp.tools.roots import Roots
from helexa_acp.v1.client import Client


@dataclass(frozen=True, slots=True)
class PermissionRule:
    """A remembered answer to requests for permission."""

    tool: str
    match: str  # exact, prefix (of words), under (a directory) or any
    value: str = ""


@dataclass(frozen=True, slots=True)
class Permission:
    """A permission that a call needs."""

    tool: str
    subject: str  # a path, host or command
    rules: tuple[PermissionRule, ...]  # which could give it permanently, the narrowest first
    words: tuple[str, ...] = ()  # of a shell command that could be parsed
    broader: str = ""  # a tool whose rules decide this as well, as its permissions include this one


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a call."""

    text: str  # for the model
    content: list[dict[str, Any]] | None = None  # for the card; None leaves what it shows
    kept: list[dict[str, Any]] | None = None  # for the log, in place of a terminal that `content` leaves
    images: tuple[ImagePart, ...] = ()
    is_error: bool = False
    raw: Any = None
    ends_turn: bool = False  # the user is to say something before the model goes on

    def with_words(self, words: str) -> Outcome:
        """Return the outcome with words added for the model."""
        return replace(self, text=f"{self.text}\n\n{words}")


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call that has not run: `title`, `content` and `locations` are for its card."""

    title: str
    run: Callable[[], Awaitable[Outcome]]
    permissions: tuple[Permission, ...] = ()
    content: list[dict[str, Any]] = field(default_factory=list)
    locations: list[dict[str, Any]] = field(default_factory=list)
    is_confined: bool = False  # a sandbox keeps it from all that a user would be asked about


@dataclass(slots=True)
class ToolContext:
    """The part of a session that tools may use. They wait for anything outside only in `cancel.race`."""

    session_id: str
    client: Client
    roots: Roots
    files: Files
    processes: ChildProcesses
    background: BackgroundCommands
    cancel: CancelToken
    show: Callable[..., None]  # changes the call's card
    set_plan: Callable[[list[dict[str, Any]]], None]
    say: Callable[[str], None]  # shows a text of the agent's own
    # Keeps what a file is (None: not there) before a call gives it other bytes, for an undo.
    keep_copy: Callable[[Path, bytes | None, bytes], Awaitable[None]]
    diagnose: Callable[[Path, str], Awaitable[str]]  # says what is wrong in a file that now has this text
    sees_images: bool = True
    card_id: str = ""  # of the call's card


class Asking(Protocol):
    """What a mode decides by: a tool, or anything else for which the user is asked."""

    spec: ToolSpec
    kind: str  # the protocol's ToolKind: read, edit, search, execute, fetch, think or other
    read_only: bool  # calls need no permission and may run concurrently


class Tool(Asking, Protocol):
    """A tool of the agent."""

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        """Return the call, ready to run, and change nothing. Raises ToolError."""


def spec(name: str, description: str, required: tuple[str, ...], /, **properties: dict[str, Any]) -> ToolSpec:
    """Return a spec whose parameters are an object with these properties and no others."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return ToolSpec(name, description, schema)

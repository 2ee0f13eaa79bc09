"""What a tool is: a description for the model, and `prepare`, which turns arguments into a `Job`.

A job knows how to show itself, what permission it needs, and how to run; it has touched nothing yet. So a
tool call is checked, shown and permitted before anything happens, in one place for all tools.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from helexa_acp.cancellation import CancelToken
from helexa_acp.provider.types import ImagePart, ToolSpec
from helexa_acp.tools.files import Files
from helexa_acp.tools.processes import ChildProcesses
from helexa_acp.tools.roots import Roots
from helexa_acp.v1.client import Client


@dataclass(frozen=True, slots=True)
class PermissionRule:
    """A permission that can be remembered. `match`: exact, prefix (words), under (a directory) or any."""

    tool: str
    match: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Permission:
    """One permission that a job needs, and the rules that could give it for good, the narrowest first."""

    tool: str
    subject: str
    rules: tuple[PermissionRule, ...]
    words: tuple[str, ...] = ()  # of a shell command, where it was understood


@dataclass(frozen=True, slots=True)
class Outcome:
    text: str  # for the model
    content: list[dict[str, Any]] | None = None  # for the card; None keeps what it shows
    kept: list[dict[str, Any]] | None = None  # instead of `content`: what replaces a terminal later on
    images: tuple[ImagePart, ...] = ()
    is_error: bool = False
    raw: Any = None


@dataclass(frozen=True, slots=True)
class PreparedCall:
    title: str
    run: Callable[[], Awaitable[Outcome]]
    permissions: tuple[Permission, ...] = ()
    content: list[dict[str, Any]] = field(default_factory=list)
    locations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class ToolContext:
    """What tools may use of the session. Whoever waits for the client or the world waits in `cancel.race`."""

    session_id: str
    client: Client
    roots: Roots
    files: Files
    processes: ChildProcesses
    cancel: CancelToken
    show: Callable[..., None]  # change the running call's card
    set_plan: Callable[[list[dict[str, Any]]], None]
    sees_images: bool = True


class Tool(Protocol):
    spec: ToolSpec
    kind: str
    read_only: bool  # may run beside other read-only calls, needs no permission

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        """Raises ToolError. Changes nothing."""


def spec(name: str, description: str, required: tuple[str, ...], **properties: dict[str, Any]) -> ToolSpec:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return ToolSpec(name, description, schema)

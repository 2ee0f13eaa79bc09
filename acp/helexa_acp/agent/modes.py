"""The modes, and what each lets a tool do without asking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from helexa_acp.tools.tool import Asking, PreparedCall


class Mode(StrEnum):
    DEFAULT = "default"
    ACCEPT_EDITS = "accept_edits"
    PLAN = "plan"
    BYPASS = "bypass"


DESCRIPTIONS = {
    Mode.DEFAULT: ("Default", "Reads freely, asks before edits, commands and requests"),
    Mode.ACCEPT_EDITS: ("Accept edits", "Edits files without asking, asks before commands and requests"),
    Mode.PLAN: ("Plan", "Reads freely, writes only its plan file, runs no commands"),
    Mode.BYPASS: ("Bypass permissions", "Never asks. Use it only where nothing can be damaged"),
}


@dataclass(frozen=True, slots=True)
class Forbidden:
    reason: str  # for the model


def policy(mode: Mode, tool: Asking, prepared: PreparedCall) -> bool | Forbidden:
    """Return True to run the call, False to ask the user, Forbidden to refuse it."""
    if tool.read_only or not prepared.permissions:
        return True
    match mode:
        case Mode.PLAN if tool.kind == "execute":
            return Forbidden("shell execution is disabled in plan mode")
        case Mode.PLAN if tool.kind == "fetch":
            return False
        case Mode.PLAN if tool.kind == "edit":
            return Forbidden("plan mode writes only to the plan file")
        case Mode.PLAN:
            return Forbidden(f"{tool.spec.name} is disabled in plan mode")
        case Mode.BYPASS:
            return True
        case Mode.ACCEPT_EDITS:
            return tool.kind == "edit"
    return False


def as_json() -> list[dict[str, Any]]:
    return [
        {"id": mode.value, "name": name, "description": text} for mode, (name, text) in DESCRIPTIONS.items()
    ]

"""The modes, and what each lets a tool do without asking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from helexa_acp.tools.sandbox import NONE_WORKS, Confinement
from helexa_acp.tools.tool import Asking, PreparedCall


class Mode(StrEnum):
    DEFAULT = "default"
    ACCEPT_EDITS = "accept_edits"
    PLAN = "plan"
    SANDBOX = "sandbox"
    BYPASS = "bypass"


_DESCRIPTIONS = {
    Mode.DEFAULT: ("Default", "Reads freely, asks before edits, commands and requests"),
    Mode.ACCEPT_EDITS: ("Accept edits", "Edits files without asking, asks before commands and requests"),
    Mode.PLAN: ("Plan", "Reads freely, writes only its plan file, runs no commands"),
    Mode.SANDBOX: ("Sandbox", ""),
    Mode.BYPASS: ("Bypass permissions", "Never asks. Use it only where nothing can be damaged"),
}
_NOT_SANDBOXED = f"Commands are NOT sandboxed: {NONE_WORKS}"


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
        case Mode.SANDBOX:
            return tool.kind == "edit" or prepared.is_confined
    return False


def descriptions(confinement: Confinement, *, always: bool) -> dict[Mode, tuple[str, str]]:
    """Return the names and descriptions; what they say of the sandbox is what it does here."""
    found = {**_DESCRIPTIONS, Mode.SANDBOX: ("Sandbox", _sandbox(confinement))}
    if not always:
        return found
    sandbox = confinement.sandbox
    note = f"Commands run in a sandbox ({sandbox.name})" if sandbox else _NOT_SANDBOXED
    return {
        mode: (name, text if mode in {Mode.SANDBOX, Mode.PLAN} else f"{text}. {note}")
        for mode, (name, text) in found.items()
    }


def _sandbox(confinement: Confinement) -> str:
    sandbox = confinement.sandbox
    if sandbox is None:
        return f"As Accept edits. {_NOT_SANDBOXED}"
    where = f"in a sandbox ({sandbox.name}) that writes only below the session's directories"
    also = "".join(f"; {able}" for able in sandbox.also)
    if confinement.is_tight:
        return f"Edits files and runs commands without asking, {where}, without network{also}. Asks for more"
    return f"Edits files without asking, and asks before commands, {where}; they have the network{also}"


def as_json(described: dict[Mode, tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"id": mode.value, "name": name, "description": text} for mode, (name, text) in described.items()]

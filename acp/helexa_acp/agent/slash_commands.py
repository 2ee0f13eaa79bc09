"""Slash commands: the built-in ones, Markdown files of the project and of the user, prompts of MCP servers.

A command either has an action, which answers without the model, or an expansion, which returns a prompt.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helexa_acp.agent import budget_command, permission_command
from helexa_acp.agent import command_actions as actions
from helexa_acp.agent.permission_command import permissions
from helexa_acp.agent.rewind import HINT, rewind
from helexa_acp.agent.session import Session
from helexa_acp.agent.undo import undo
from helexa_acp.cancellation import CancelToken
from helexa_acp.front_matter import split_front_matter
from helexa_acp.tools.mcp.prompts import McpPrompt
from helexa_acp.tools.skills import Skill, find_skills, skill_folders

log = logging.getLogger(__name__)

MAX_FILE_CHARS = 100_000

_INVOCATION = re.compile(r"/([A-Za-z0-9][A-Za-z0-9_:.-]*)(?:\s+(.*))?\s*", re.DOTALL)

Action = Callable[[Session, str, CancelToken], Awaitable[None]]
Expansion = Callable[[Session, str], Awaitable[str | None]]  # may raise ToolError


@dataclass(frozen=True, slots=True)
class SlashCommand:
    name: str
    description: str
    hint: str | None = None
    action: Action | None = None
    expansion: Expansion | None = None


@dataclass(frozen=True, slots=True)
class Invocation:
    command: SlashCommand
    argument: str
    place: int  # index of its block in the prompt

    async def expand(self, session: Session) -> str | None:
        """Return the prompt that the command stands for, or None if its action is to run.

        Raises ToolError.
        """
        if self.command.expansion is None:
            return None
        return await self.command.expansion(session, self.argument)

    async def run(self, session: Session, cancel: CancelToken) -> None:
        if self.command.action is not None:
            await self.command.action(session, self.argument, cancel)


BUILTIN = (
    SlashCommand(
        "compact", "Replace the older part of the conversation by a summary", action=actions.compact
    ),
    SlashCommand("model", "Show the models, or choose one", "endpoint:model", actions.model),
    SlashCommand(
        "plan",
        "Switch plan mode on or off, or plan something",
        "off | what to plan",
        actions.plan,
        actions.expand_plan,
    ),
    SlashCommand("undo", "Undo the last turn and its edits", action=undo),
    SlashCommand("rewind", "Go back to before a turn, with the project's files", HINT, rewind),
    SlashCommand("cost", "Show tokens, cost and limits of this session", action=budget_command.cost),
    SlashCommand(
        "budget", "Show or set when to ask about going on", budget_command.HINT, budget_command.budget
    ),
    SlashCommand("init", "Write or improve AGENTS.md for this project", expansion=actions.expand_init),
    SlashCommand(
        "permissions", "Show, add or remove remembered permissions", permission_command.HINT, permissions
    ),
)


def available(session: Session) -> dict[str, SlashCommand]:
    """Return the commands by name. Of two with one name the first counts: built-in, file, skill, server."""
    commands = {command.name: command for command in BUILTIN}
    project = Path(session.cwd) / ".helexa" / "commands"
    for folder in (project, session.home.config / "commands"):
        for path in sorted(folder.glob("*.md")) if folder.is_dir() else []:
            # A link in the project would make a prompt of a file from elsewhere.
            command = _from_file(path) if folder != project or session.roots.hold(path) else None
            if command is not None:
                commands.setdefault(command.name, command)
    for skill in find_skills(skill_folders(session.cwd, session.home.config)).values():
        commands.setdefault(skill.name, _from_skill(skill))
    for prompt in session.mcp.prompts:
        commands.setdefault(prompt.name, _from_server(prompt))
    return commands


def find(session: Session, blocks: list[dict[str, Any]]) -> Invocation | None:
    """Return the invocation in a prompt: its first text that is one of an available command.

    The other blocks accompany it: clients put files and selections before what the user typed.
    """
    commands: dict[str, SlashCommand] | None = None
    for place, block in enumerate(blocks):
        match = _INVOCATION.fullmatch(block["text"].strip()) if block.get("type") == "text" else None
        if match is None:
            continue
        commands = available(session) if commands is None else commands
        if match[1] in commands:
            return Invocation(commands[match[1]], (match[2] or "").strip(), place)
    return None


def as_json(commands: dict[str, SlashCommand]) -> list[dict[str, Any]]:
    """Return the commands as the protocol lists them."""
    listed: list[dict[str, Any]] = []
    for command in commands.values():
        entry: dict[str, Any] = {"name": command.name, "description": command.description}
        listed.append({**entry, "input": {"hint": command.hint}} if command.hint else entry)
    return listed


def may_be_of_server(blocks: list[dict[str, Any]]) -> bool:
    """Return whether a prompt may invoke a command of an MCP server, which may still be connecting."""
    texts = (block["text"].strip() for block in blocks if block.get("type") == "text")
    return any((match := _INVOCATION.fullmatch(text)) and ":" in match[1] for text in texts)


def _from_skill(skill: Skill) -> SlashCommand:
    async def expand(_session: Session, argument: str) -> str:
        body = f"Follow the skill {skill.name} from {skill.folder}:\n\n{skill.text}"
        return f"{body}\n\n{argument}" if argument else body

    return SlashCommand(skill.name, skill.description, "what to do", expansion=expand)


def _from_server(prompt: McpPrompt) -> SlashCommand:
    async def expand(_session: Session, argument: str) -> str:
        return await prompt.expand(argument)

    return SlashCommand(prompt.name, prompt.description, prompt.hint or None, expansion=expand)


def _from_file(path: Path) -> SlashCommand | None:
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_FILE_CHARS)
    except (OSError, UnicodeError) as error:
        log.warning("command file %s is ignored: %s", path, error)
        return None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_:.-]*", path.stem):
        log.warning("command file %s is ignored: its name is not a command's", path)
        return None
    fields, body = split_front_matter(text)
    hint = fields.get("argument-hint") or ("arguments" if "$ARGUMENTS" in body else None)

    async def expand(_session: Session, argument: str) -> str:
        if "$ARGUMENTS" in body:
            return body.replace("$ARGUMENTS", argument)
        return f"{body}\n\n{argument}" if argument else body

    return SlashCommand(path.stem, fields.get("description") or f"From {path.name}", hint, expansion=expand)

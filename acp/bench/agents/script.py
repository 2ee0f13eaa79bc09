"""What the model says: the calls or the text of a task's script, at the place where a request stands in it.

Agents name their tools and arguments differently. A script names neither: each of its calls is translated
with the tools that the request itself declares.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

MARK = re.compile(r"\(task (\w+), turn (\d+)\)")

# What a script calls, the names that agents give it, and those of the arguments.
TOOLS = {
    "read": ("read", "read_file"),
    "edit": ("edit", "search_replace", "replace"),
    "write": ("write", "write_file"),
    "shell": ("shell", "bash", "run_shell_command"),
}
ARGUMENTS = {
    "path": ("path", "file_path", "filePath", "absolute_path"),
    "old": ("old_text", "old_string", "oldString"),
    "new": ("new_text", "new_string", "newString"),
    "content": ("content",),
    "command": ("command",),
}
FILLERS: dict[str, Any] = {"string": "as the task says", "boolean": False, "integer": 60, "number": 60}


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool; `{folder}` in its arguments is the task's folder."""

    tool: str
    args: dict[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of the model."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    found: str = ""  # a pattern: what it finds in the last results of tools is added to the text
    pieces: int = 3  # in which the text is streamed
    gap_s: float = 0.02  # between two pieces
    refusals: int = 0  # how often the server is busy before it gives this reply


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands in a script."""

    task: str
    turn: int  # from 1
    round: int  # from 0


@dataclass(frozen=True, slots=True)
class Script:
    """The replies of a task, by turn and round."""

    turns: tuple[tuple[Reply, ...], ...] = field(default=())

    def at(self, place: Place) -> Reply:
        rounds = self.turns[min(place.turn, len(self.turns)) - 1]
        return rounds[min(place.round, len(rounds) - 1)]


def text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def place_of(body: dict[str, Any]) -> Place | None:
    """Return where the request stands, or None if it is no part of a task, such as one for a title."""
    if not any(_matching(body, name) for name in TOOLS):
        return None
    messages = body.get("messages", [])
    for position in range(len(messages) - 1, -1, -1):
        marks = MARK.findall(text_of(messages[position])) if messages[position]["role"] == "user" else []
        if marks:
            task, turn = marks[-1]
            rounds = sum(message["role"] == "assistant" for message in messages[position + 1 :])
            return Place(task, int(turn), rounds)
    return None


def calls_of(reply: Reply, body: dict[str, Any], folder: str) -> list[tuple[str, str]]:
    """Return the name and the arguments of each call, as the request's tools want them."""
    return [_translated(call, body, folder) for call in reply.calls]


def words_of(reply: Reply, body: dict[str, Any]) -> str:
    if not reply.found:
        return reply.text
    results: list[str] = []
    for message in reversed(body["messages"]):
        if message["role"] != "tool":
            break
        results.insert(0, text_of(message))
    found = re.findall(reply.found, "\n".join(results))
    return f"{reply.text} {' '.join(found) or 'nothing'}"


def _matching(body: dict[str, Any], tool: str) -> dict[str, Any] | None:
    declared = {tool["function"]["name"]: tool["function"] for tool in body.get("tools") or []}
    return next((declared[name] for name in TOOLS[tool] if name in declared), None)


def _translated(call: Call, body: dict[str, Any], folder: str) -> tuple[str, str]:
    function = _matching(body, call.tool)
    if function is None:
        return call.tool, "{}"
    properties = function["parameters"].get("properties", {})
    args: dict[str, Any] = {}
    for name, value in call.args.items():
        key = next((key for key in ARGUMENTS[name] if key in properties), name)
        args[key] = value.replace("{folder}", folder)
    for name in function["parameters"].get("required", []):
        args.setdefault(name, FILLERS.get(str(properties.get(name, {}).get("type")), ""))
    return function["name"], json.dumps(args)

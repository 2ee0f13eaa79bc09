"""The slash command `/permissions`, which lists, adds and removes the remembered permissions of the project.

A request for permission offers only the narrowest rule to keep; wider ones are written here.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from helexa_acp.agent.approvals import Approvals
from helexa_acp.agent.permission_rules import PermissionRules, describe
from helexa_acp.agent.session import Session
from helexa_acp.cancellation import CancelToken
from helexa_acp.tools.roots import expand
from helexa_acp.tools.shell import SHELLS
from helexa_acp.tools.shell import permissions as permissions_of
from helexa_acp.tools.tool import PermissionRule

HINT = "allow|reject TOOL [exact|prefix|under|any] VALUE, remove NUMBER, forget"
USAGE = """\
- `/permissions allow shell git status` allows commands that begin with these words; `reject` refuses them
- `/permissions allow edit under src` allows edits below a directory
- `/permissions allow shell exact make test`, `/permissions allow "server: tool" any`
- `/permissions remove 2` removes the second of the list, `/permissions forget` all of them\
"""

_MATCHES = {  # the first is the default
    **dict.fromkeys(SHELLS.values(), ("prefix", "exact", "any")),
    "edit": ("under", "exact", "any"),
}
_OTHER_MATCHES = ("exact", "any")


MAX_SUGGESTED = 5


class UsageError(Exception):
    """The words after the command are none of its forms. The message is for the user."""


async def permissions(session: Session, argument: str, _: CancelToken) -> None:
    try:
        session.say(_done(session.approvals, argument, session.cwd))
    except UsageError as error:
        session.say(f"Not changed: {error}.\n\n{USAGE}")


def _done(approvals: Approvals, argument: str, cwd: str) -> str:
    """Do what the words say, and return what to tell of it. Raises UsageError."""
    rules = approvals.rules
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UsageError(str(error)) from error
    match words:
        case []:
            return _listed(rules) + _suggested(approvals)
        case ["forget"]:
            rules.forget()
            return "All remembered permissions of this project are forgotten."
        case ["remove", number]:
            verdict, rule = _numbered(rules, number)
            rules.remove(verdict, rule)
            return f"Removed: {verdict} {describe(rule)}."
        case [("allow" | "reject") as verdict, tool, *rest]:
            new = _rules(tool, rest, argument, cwd)
            rules.remember(verdict, new)
            return f"Remembered: {verdict} {', '.join(map(describe, new))}."
    raise UsageError(f"{words[0]!r} is none of its forms")


def _listed(rules: PermissionRules) -> str:
    lines = [f"{number}. {verdict} {describe(rule)}" for number, (verdict, rule) in enumerate(_all(rules), 1)]
    return (
        "\n".join(lines or ["No permissions are remembered."])
        + f"\n\nThey are kept in `{rules.path}`.\n\n{USAGE}"
    )


def _suggested(approvals: Approvals) -> str:
    """Return the commands that give wider permissions than those which were asked for lately."""
    known = {rule for _, rule in _all(approvals.rules)}
    wider = [rule for rule in approvals.wider if rule not in known][-MAX_SUGGESTED:]
    lines = [f"- `/permissions allow {rule.tool} {rule.match} {rule.value}`" for rule in wider]
    return "\n\nWider than what was asked for lately:\n\n" + "\n".join(lines) if lines else ""


def _all(rules: PermissionRules) -> list[tuple[str, PermissionRule]]:
    return [(verdict, rule) for verdict, entries in rules.read().items() for rule in entries]


def _numbered(rules: PermissionRules, number: str) -> tuple[str, PermissionRule]:
    known = _all(rules)
    if not number.isdecimal() or not 1 <= int(number) <= len(known):
        raise UsageError(f"{number!r} is no number of the list, which has {len(known)} permissions")
    return known[int(number) - 1]


def _rules(tool: str, rest: list[str], argument: str, cwd: str) -> list[PermissionRule]:
    """Return the rules that the words after the tool stand for. Raises UsageError."""
    matches = _MATCHES.get(tool, _OTHER_MATCHES)
    named = bool(rest) and rest[0] in {"exact", "prefix", "under", "any"}
    match = rest[0] if named else matches[0] if rest else "any"
    words = rest[1:] if named else rest
    if match not in matches:
        raise UsageError(f"{tool} has no {match!r}, only {', '.join(matches)}")
    if (match == "any") is bool(words):
        raise UsageError(f"{tool} {match} needs {'no' if words else 'a'} value")
    if not named and not words and tool in _MATCHES:
        raise UsageError(f"say what of {tool}, or write {tool} any")
    if tool == "edit" and words:
        return [PermissionRule(tool, match, _absolute(" ".join(words), cwd))]
    if tool not in SHELLS.values() or not words:
        return [PermissionRule(tool, match, " ".join(words))]
    command = argument.strip().split(maxsplit=3 if named else 2)[-1]  # with its quotes
    if match == "prefix":
        return [PermissionRule(tool, match, command)]
    return [permission.rules[0] for permission in permissions_of(command, tool)]


def _absolute(path: str, cwd: str) -> str:
    return os.path.realpath(Path(cwd) / expand(path, os.environ.get("HOME")))

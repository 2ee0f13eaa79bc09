"""A parser of shell commands into simple commands, which is used for permissions and never to run anything.

It knows plain words, quotes, pipes, `&&`, `||`, `;`, `&`, newlines, and output to /dev/null. It splits words
as bash and dash do: at spaces, tabs and newlines; any other white space is a letter. Anything whose
effect the words do not show (expansions, substitutions, redirections to files, subshells, keywords,
assignments) makes a command opaque: it can be permitted only as a whole, word for word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HARMLESS_REDIRECT = re.compile(r"(?:2>&1|&>/dev/null|[12]?>[ \t]*/dev/null|</dev/null)(?=[ \t\n;|&]|$)")
_OPERATOR = re.compile(r"&&|\|\||\|&|[;|&\n]")
_BLANKS = " \t"
_OPAQUE = set("`$<>(){}#\\!\0")
_KEYWORDS = {
    *("if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "function"),
    *("select", "time", "coproc", "eval", "exec", "source", ".", "[[", "trap", "alias", "command", "builtin"),
}
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\[.*\])?\+?=", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SimpleCommand:
    text: str  # as it is written, with its quotes, which decide what else is a pattern of file names
    words: tuple[str, ...]  # without quotes


class _OpaqueError(Exception):
    pass


def parse(command: str) -> list[SimpleCommand] | None:
    """Return the simple commands, or None if the command is opaque."""
    try:
        commands = [simple for part in _parts(command) if (simple := _simple(part)).words]
    except _OpaqueError:
        return None
    firsts = [simple.words[0] for simple in commands]
    if not commands or any(word in _KEYWORDS or _ASSIGNMENT.match(word) for word in firsts):
        return None
    return commands


def _parts(command: str) -> list[str]:
    """Return what stands between the operators. Raises _OpaqueError."""
    parts: list[str] = []
    begin = at = 0
    while at < len(command):
        if redirect := _HARMLESS_REDIRECT.match(command, at):
            at = redirect.end()
        elif operator := _OPERATOR.match(command, at):
            parts.append(command[begin:at])
            begin = at = operator.end()
        else:
            _, at = _piece(command, at)
    return [*parts, command[begin:]]


def _simple(part: str) -> SimpleCommand:
    """Return the command of a part without operators. Raises _OpaqueError."""
    words: list[str] = []
    word: str | None = None
    at = 0
    while at < len(part):
        if word is None and (redirect := _HARMLESS_REDIRECT.match(part, at)):
            at = redirect.end()
        elif part[at] in _BLANKS:
            words += [] if word is None else [word]
            word = None
            at += 1
        else:
            piece, at = _piece(part, at)
            word = (word or "") + piece
    return SimpleCommand(part.strip(_BLANKS), (*words, *([] if word is None else [word])))


def _piece(command: str, at: int) -> tuple[str, int]:
    """Return the content of a quoted string, or one plain character, and the position after it."""
    char = command[at]
    if char in "'\"":
        end = command.find(char, at + 1)
        if end < 0:
            raise _OpaqueError
        inside = command[at + 1 : end]
        if char == '"' and set(inside) & set("$`\\!"):
            raise _OpaqueError
        return inside, end + 1
    if char in _OPAQUE:
        raise _OpaqueError
    return char, at + 1

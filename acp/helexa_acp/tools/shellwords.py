"""A parser of shell commands into simple commands, which is used for permissions and never to run anything.

It knows plain words, quotes, pipes, `&&`, `||`, `;`, `&`, newlines, and output to /dev/null. Anything whose
effect the words do not show (expansions, substitutions, redirections to files, subshells, keywords,
assignments) makes a command opaque: it can be permitted only as a whole, word for word.
"""

from __future__ import annotations

import re

_HARMLESS_REDIRECT = re.compile(r"(?:2>&1|&>/dev/null|[12]?>\s*/dev/null|</dev/null)(?=[\s;|&]|$)")
_OPERATOR = re.compile(r"&&|\|\||\|&|[;|&\n]")
_OPAQUE = set("`$<>(){}#\\!\0")
_KEYWORDS = {
    *("if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "function"),
    *("select", "time", "coproc", "eval", "exec", "source", ".", "[[", "trap", "alias", "command", "builtin"),
}
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")


class _OpaqueError(Exception):
    pass


def parse(command: str) -> list[tuple[str, ...]] | None:
    """Return the words of each simple command, or None if the command is opaque."""
    try:
        commands = _split(command)
    except _OpaqueError:
        return None
    commands = [words for words in commands if words]
    if not commands or any(w[0] in _KEYWORDS or _ASSIGNMENT.match(w[0]) for w in commands):
        return None
    return commands


def _split(command: str) -> list[tuple[str, ...]]:
    commands: list[list[str]] = [[]]
    word: str | None = None
    at = 0
    while at < len(command):
        if word is None and (redirect := _HARMLESS_REDIRECT.match(command, at)):
            at = redirect.end()
            continue
        char = command[at]
        operator = _OPERATOR.match(command, at)
        if operator or char in " \t\r":
            if word is not None:
                commands[-1].append(word)
                word = None
            if operator:
                commands.append([])
            at = operator.end() if operator else at + 1
            continue
        piece, at = _piece(command, at)
        word = (word or "") + piece
    if word is not None:
        commands[-1].append(word)
    return [tuple(words) for words in commands]


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

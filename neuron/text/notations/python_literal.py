r"""Python's literals as JSON, token by token: linear, without evaluation, whatever the nesting.

Tuples become arrays, commas before a closing bracket are dropped, JSON's own constants are taken as well.
Escapes become JSON's own: `\x41` is `\u0041`.
"""

from __future__ import annotations

import json
import re

from neuron.text.notations.parser import loads

CONSTANTS = {
    "True": "true",
    "False": "false",
    "None": "null",
    "true": "true",
    "false": "false",
    "null": "null",
}
SIGNS = {"{": "{", "}": "}", "[": "[", "]": "]", "(": "[", ")": "]", ":": ":", ",": ","}
_HEX = "[0-9a-fA-F]"
_ESCAPE = re.compile(rf'\\(?:u{_HEX}{{4}}|U{_HEX}{{8}}|x{_HEX}{{2}}|.)|["\x00-\x1f]', re.DOTALL)
_WHOLE_ESCAPES = {
    quote: re.compile(rf"(?:[^{quote}\\]|\\(?:[^uUx]|u{_HEX}{{4}}|U{_HEX}{{8}}|x{_HEX}{{2}}))*", re.DOTALL)
    for quote in "\"'"
}
_OPEN_ESCAPE = re.compile(rf"\\(?:u{_HEX}{{0,3}}|U{_HEX}{{0,7}}|x{_HEX}?)?\Z")
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<sign>[][{}():,])|(?P<word>[^][\s{}():,"']+))""",
    re.DOTALL,
)
_SIMPLE = {"n": "\\n", "t": "\\t", "r": "\\r", "b": "\\b", "f": "\\f", "a": "\\u0007", "v": "\\u000b"}
_SIMPLE |= {'"': '\\"', "\\": "\\\\", "'": "'", "/": "/", "\n": ""}
_MAX_UNICODE = 0x10FFFF


def literal_as_json(text: str) -> str | None:
    """The JSON text of a Python literal; None when `text` is none."""
    out: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if not token:
            return None
        at = token.end()
        if token["sign"] in {"}", "]", ")"} and out and out[-1] == ",":
            out.pop()
        out.append(token_as_json(token))
    found = "".join(out)
    return found if loads(found) is not None or found == "null" else None


def token_as_json(token: re.Match[str]) -> str:
    """One token of a literal. Words that are no literal become text, as models write them unquoted."""
    if token["string"]:
        return f'"{escaped(token["string"][1:-1])}"'
    if token["sign"]:
        return SIGNS[token["sign"]]
    return word_as_json(token["word"])


def word_as_json(word: str) -> str:
    """A constant or number; else the word as text."""
    if word in CONSTANTS:
        return CONSTANTS[word]
    if isinstance(loads(word), int | float):
        return word
    for read in (int, float):
        try:
            number = read(word)
        except ValueError:
            continue
        if abs(number) < float("inf"):
            return json.dumps(number)
    return json.dumps(word, ensure_ascii=False)


def escaped(text: str) -> str:
    """The inside of a Python string as the inside of a JSON string."""
    return _ESCAPE.sub(_as_json_escape, text)


def whole_part(text: str, quote: str) -> int:
    """How much of the inside of a string, of which more may come, can be read already."""
    at = _end(text, quote, 0)
    while at < len(text) and text[at] == "\\" and not _OPEN_ESCAPE.match(text, at):
        at = _end(text, quote, at + 1)  # no escape: the backslash stands for itself
    return at


def _end(text: str, quote: str, start: int) -> int:
    found = _WHOLE_ESCAPES[quote].match(text, start)
    return found.end() if found else start


def _as_json_escape(found: re.Match[str]) -> str:
    sign = found[0]
    if sign[0] != "\\":
        return json.dumps(sign)[1:-1]
    kind = sign[1:2]
    if kind == "u" and len(sign) > 2:
        return sign
    if kind == "x" and len(sign) > 2:
        return f"\\u00{sign[2:]}"
    if kind == "U" and len(sign) > 2:
        code = int(sign[2:10], 16)
        return json.dumps(chr(code))[1:-1] if code <= _MAX_UNICODE else "\\\\" + sign[1:]
    return _SIMPLE.get(kind, "\\\\" + kind)

"""Heads of tags, spelled as families write them: `<parameter name="{key}">`.

In what is read, any white space may stand where a spelling breaks its line, and between two tags. What a
spelling has in brackets may be missing.
"""

from __future__ import annotations

import re
from functools import lru_cache

from neuron.text.notations.parser import MAX_HEAD_CHARS

_PARTS = re.compile(r"\{(\w+)\}|\[([^\]]*)\]|\n|(?<=>)(?=<)|.")
_SEAM = re.compile(r"\n+|(?<=>)(?=<)")
_SPACE = r"\s*"
_WORD = r"""[^\s<>{}\[\]"']+"""  # a field that no sign ends but a tag or the line's end
_WORD_END = r"(?=[ \t]*[\n<])"


class TagHead:
    """A spelling with fields, read at the beginning of a text that comes in pieces."""

    def __init__(self, spelling: str) -> None:
        self._whole, self._begun = _compiled(spelling)

    def match(self, text: str) -> re.Match[str] | None:
        """The head that `text` begins with."""
        return self._whole.match(text, 0, MAX_HEAD_CHARS)

    def may_become(self, text: str) -> bool:
        """Whether `text`, which does not begin with a head, is the beginning of one."""
        return len(text) < MAX_HEAD_CHARS and self._begun.fullmatch(text) is not None


@lru_cache
def _compiled(spelling: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    units = _units(spelling)
    return re.compile("".join(_whole(unit) for unit in units)), re.compile(_begun(units))


# A part's expressions, when it is whole and when it is the last; or the parts that stand in brackets.
Unit = tuple[str, str] | list["Unit"]


def _units(spelling: str) -> list[Unit]:
    units: list[Unit] = []
    for part in _PARTS.finditer(spelling):
        if part[1]:
            units.append(_field(part[1], spelling[part.end() : part.end() + 1].strip()))
        elif part[2]:
            units.append(_units(part[2]))
        elif part[0].strip() or part[0] == " ":
            units.append((re.escape(part[0]),) * 2)
        else:
            units.append((_SPACE, _SPACE))
    return units


def _field(name: str, following: str) -> Unit:
    """A field that ends at the sign that follows it."""
    if not following:
        return f"(?P<{name}>{_WORD}){_WORD_END}", rf"{_WORD}[ \t]*"
    field = rf"[^\n{re.escape(following)}{'<' if following == '>' else ''}]+"
    return f"(?P<{name}>{field})", field


def _whole(unit: Unit) -> str:
    return f"(?:{''.join(_whole(inner) for inner in unit)})?" if isinstance(unit, list) else unit[0]


def _begun(units: list[Unit]) -> str:
    """The expression of a text that may become the whole."""
    expression = ""
    for unit in reversed(units):
        if isinstance(unit, list):
            expression = f"(?:{_begun(unit)}|{_whole(unit)}{expression})"
        else:
            expression = f"(?:{unit[1]}{expression})?"
    return re.sub(r"\(\?P<\w+>", "(?:", expression)  # a group's name may stand but once


def segments(spelling: str) -> list[str]:
    """The parts of a spelling between which white space may stand."""
    return [part for part in _SEAM.split(spelling) if part]

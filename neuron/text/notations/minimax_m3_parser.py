"""Reads MiniMax M3's calls, in which a parameter's name is a tag and values nest.

An element with elements in it is an object, or an array if these are all `item`; the tool's schema tells
where it is silent on its own, as an empty element may be text, an object or an array.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from neuron.text.markers import MarkerSet
from neuron.text.notations.parser import MAX_HEAD_CHARS, CallParser, NewId, ToolSchemas
from neuron.text.notations.values import TEXT, Kinds, as_json, kinds_of, member_of, quoted
from neuron.text.schema import Schema

SIGN = "]<]minimax[>["  # before every tag
OPEN, CLOSE = f"{SIGN}<tool_call>", f"{SIGN}</tool_call>"
MAX_DEPTH = 64
_TAG = re.compile(r"<(/?)([^<>\n]+)>")
_PART_OF_TAG = re.compile(r"(?:<[^<>\n]*)?")
_INVOKE = re.compile(r'invoke\s+name="([^"]+)"')
_SIGNS = MarkerSet([SIGN])
_OPENERS = MarkerSet([OPEN])


@dataclass(slots=True)
class _Element:
    """A value that is being read."""

    name: str
    schema: Any
    kinds: Kinds
    text: list[str] = field(default_factory=list)
    members: list[tuple[str, str]] = field(default_factory=list)  # names, and values in JSON

    @property
    def json(self) -> str:
        if not self.members:
            return self._leaf()
        may_be_array = not self.kinds or "array" in self.kinds
        if may_be_array and all(name == "item" for name, _ in self.members):
            return f"[{', '.join(value for _, value in self.members)}]"
        return "{" + ", ".join(f"{quoted(name)}: {value}" for name, value in self.members) + "}"

    def _leaf(self) -> str:
        text = "".join(self.text)
        if "string" not in self.kinds and not text.strip():
            for kind, empty in (("array", "[]"), ("object", "{}"), ("null", "null")):
                if kind in self.kinds:
                    return empty
        return as_json(text, self.kinds)


class MiniMaxM3Parser(CallParser):
    """States: text → call → elements → call → text."""

    def __init__(self, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(new_id)
        self._tools = tools
        self._schema: Schema = {}
        self._opening = ""  # text if it becomes no call
        self._after_call = False
        self._num_parameters = 0
        self._path: list[_Element] = []  # from the parameter to the value that is being read

    def _text(self) -> bool:
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held
        end, found = _OPENERS.find(self._held)
        text = self._held[:end].rstrip()
        self._emit_text(text)
        self._held = self._held[len(text) :]
        if found:
            size = found.end() - len(text)
            self._opening, self._held = self._held[:size], self._held[size:]
            self._after_call = False
            self._state = self._call
        return found is not None

    def _call(self) -> bool:
        """Before the head of a call, the first or the next one."""
        start = self._held.lstrip()
        tag = _tag_of(start)
        if not tag and _may_become_tag(start):
            return False
        invoke = _INVOKE.fullmatch(tag[2]) if tag and not tag[1] else None
        if tag and invoke:
            self._held = start[len(SIGN) + len(tag[0]) :]
            self._begin(invoke[1])
        elif self._after_call and tag and tag[0] == "</tool_call>":
            self._held = start[len(CLOSE) :]
            self._state = self._text
        else:
            if not self._after_call:
                self._emit_malformed(self._opening)
            self._state = self._text
        return True

    def _begin(self, name: str) -> None:
        self._start_call(name)
        self._after_call = True
        self._schema = self._tools.get(name) or {}
        self._num_parameters = 0
        self._path = []
        self._state = self._elements

    def _elements(self) -> bool:
        """The call's parameters and what is in them, tag by tag."""
        end, _ = _SIGNS.find(self._held)
        self._pass(self._held[:end])
        self._held = self._held[end:]
        tag = _tag_of(self._held)
        if not tag and _may_become_tag(self._held):
            return False
        size = len(SIGN) + len(tag[0]) if tag else len(SIGN)
        read = self._held[:size]
        if not tag or not self._take(tag[1], tag[2], read):
            self._pass(read)
        if self._state == self._elements:
            self._held = self._held[size:]
        return True

    def _take(self, slash: str, name: str, read: str) -> bool:
        """Handle a tag; returns whether it is one of the call's."""
        names = [element.name for element in self._path]
        if slash and name in names:
            while self._close_element() != name:
                pass
            return True
        if read == CLOSE or name == "invoke" or _INVOKE.fullmatch(name):
            self._close_call()
            self._held = self._held.removeprefix(f"{SIGN}</invoke>")
            self._state = self._call
            return True
        if slash or len(names) >= MAX_DEPTH or (self._path and self._path[-1].kinds == TEXT):
            return False
        self._open_element(name)
        return True

    def _close_call(self) -> None:
        while self._path:
            self._close_element()
        self._emit_arguments("}" if self._num_parameters else "{}")
        self._end_call()

    def _open_element(self, name: str) -> None:
        if self._path:
            schema = member_of(self._path[-1].schema, name, self._schema)
            self._path.append(_Element(name, schema, kinds_of(schema, self._schema)))
            return
        schema = member_of(self._schema, name, self._schema)
        element = _Element(name, schema, kinds_of(schema, self._schema))
        self._emit_arguments(f"{', ' if self._num_parameters else '{'}{quoted(name)}: ")
        self._num_parameters += 1
        if element.kinds == TEXT:
            self._emit_arguments('"')
        self._path.append(element)

    def _close_element(self) -> str:
        element = self._path.pop()
        if self._path:
            self._path[-1].members.append((element.name, element.json))
        else:
            self._emit_arguments('"' if element.kinds == TEXT else element.json)
        return element.name

    def _pass(self, text: str) -> None:
        if not self._path:
            self._emit_text("".join(text.split()))  # what stands between parameters, wherever it is cut
        elif self._path[0].kinds == TEXT:
            self._emit_arguments(quoted(text)[1:-1] if text else "")
        else:
            self._path[-1].text.append(text)

    def _end(self) -> None:
        if self._state == self._text:
            self._emit_text(self._held.lstrip() if self._after_call else self._held)
        elif self._state == self._elements:
            self._end_elements(self._held.strip())
        elif not self._after_call:
            self._emit_malformed(self._opening + self._held)
        elif not (f"{SIGN}<").startswith(self._held.strip()) and not CLOSE.startswith(self._held.strip()):
            self._emit_text(self._held)

    def _end_elements(self, held: str) -> None:
        """What was read of a call is whole, unless the end cuts off a value or the tag of one more."""
        if self._path:
            self._pass(self._held)
        elif not held or held.startswith(f"{SIGN}</"):
            self._close_call()
        elif _may_become_tag(held):
            self._emit_arguments("" if self._num_parameters else "{")
        else:
            self._pass(held)


def _tag_of(text: str) -> re.Match[str] | None:
    """The tag behind the sign with which `text` begins."""
    return _TAG.match(text, len(SIGN), MAX_HEAD_CHARS) if text.startswith(SIGN) else None


def _may_become_tag(text: str) -> bool:
    if not text.startswith(SIGN):
        return SIGN.startswith(text)
    return len(text) < MAX_HEAD_CHARS and _PART_OF_TAG.fullmatch(text, len(SIGN)) is not None

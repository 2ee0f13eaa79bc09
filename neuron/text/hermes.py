"""The Hermes notation, also Qwen's: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.

Once the head `{"name": "…", "arguments": {` has been read, the call is announced and its arguments pass
through as they are written. A block with another order of keys is read as a whole at its end. What is no
call by then comes out as text, markers included; what follows the arguments and does not belong to the call
comes out as text too. White space around calls is dropped.

The JSON inside the arguments is followed for its structure only: whether it fits the tool is for the client
to say, and it gets every character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from neuron.text.events import CallArguments, CallStart, Content, Event
from neuron.text.markers import held_suffix

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_HEAD_CHARS = 1024
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\<]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_STRUCTURE = re.compile(r'["{}\[\]]')
_STRING_END = re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)
_TAIL = re.compile(r"\s*\}\s*")


class HermesFormat:
    name = "hermes"
    markers: Sequence[str] = (OPEN, CLOSE)

    def fits(self, template: str) -> bool:
        return OPEN in template and "<function=" not in template and "<arg_key>" not in template

    def parser(self, new_id: Callable[[], str]) -> HermesParser:
        return HermesParser(new_id)


class HermesParser:
    """States: text → head → arguments → tail → text. `_held` is what is read and not yet decided."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._state: Callable[[], bool] = self._text
        self._held = ""
        self._before = ""  # white space before the open block: text again if the block is no call
        self._searched = 0  # of a block, how far its end was looked for
        self._calls = 0
        self._after_call = False
        self._depth = 0
        self._in_string = False
        self._events: list[Event] = []

    def feed(self, text: str) -> list[Event]:
        self._held += text
        while self._state():
            pass
        return self._take_events()

    def finish(self) -> list[Event]:
        held, self._held = self._held, ""
        if self._state == self._head:
            self._block(held, close="")
        elif self._state == self._text:
            self._emit_text(held.lstrip() if self._after_call else held)
        elif self._state == self._tail and not _ends_call(held):
            self._emit_text(held)
        elif self._state == self._arguments:
            self._emit_arguments(held)
        return self._take_events()

    # A state handles what is held and says whether another one shall go on with the rest.

    def _text(self) -> bool:
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held
        before, marker, rest = self._held.partition(OPEN)
        if marker:
            text = before.rstrip()
            self._emit_text(text)
            self._before, self._held, self._searched = before[len(text) :], rest, 0
            self._state = self._head
            return True
        shown = self._held[: len(self._held) - held_suffix(self._held, (OPEN,))].rstrip()
        self._emit_text(shown)
        self._held = self._held[len(shown) :]
        return False

    def _head(self) -> bool:
        if self._searched < MAX_HEAD_CHARS and (head := _HEAD.match(self._held[:MAX_HEAD_CHARS])):
            name = _loads(head[1])
            if isinstance(name, str):
                self._start_call(name)
                self._held = self._held[head.end() :]
                self._depth, self._in_string = 0, False
                self._state = self._arguments
                return True
        at = self._held.find(CLOSE, max(0, self._searched - len(CLOSE)))
        self._searched = len(self._held)
        if at < 0:
            return False
        block, self._held = self._held[:at], self._held[at + len(CLOSE) :]
        self._block(block, close=CLOSE)
        self._state = self._text
        return True

    def _arguments(self) -> bool:
        at = 0
        while at < len(self._held):
            if self._in_string:
                end = _STRING_END.match(self._held, at)
                if not end:
                    break  # a backslash may be the last character: the rest is looked at again
                at, self._in_string = end.end(), False
                continue
            sign = _STRUCTURE.search(self._held, at)
            if not sign:
                at = len(self._held)
                break
            at = sign.end()
            if sign[0] == '"':
                self._in_string = True
                continue
            self._depth += 1 if sign[0] in "{[" else -1
            if self._depth == 0:
                self._emit_arguments(self._held[:at])
                self._held = self._held[at:]
                self._state = self._tail
                return True
        if self._in_string:
            at = len(self._held) - (_trailing_backslashes(self._held) % 2)
        self._emit_arguments(self._held[:at])
        self._held = self._held[at:]
        return False

    def _tail(self) -> bool:
        if self._held.lstrip().startswith(","):  # further keys: read up to the end of the block
            at = self._held.find(CLOSE)
            if at < 0:
                return False
            tail, self._held = self._held[:at], self._held[at + len(CLOSE) :]
            self._emit_text("" if _ends_call(tail) else tail + CLOSE)
            self._state = self._text
            return True
        brace = _TAIL.match(self._held)
        if not brace and not self._held.strip():
            return False
        rest = self._held[brace.end() :] if brace else self._held
        if brace and CLOSE.startswith(rest):
            if rest != CLOSE:
                return False
            self._held = ""
        elif brace and rest.startswith(CLOSE):
            self._held = rest[len(CLOSE) :]
        elif brace:
            self._held = self._held[self._held.index("}") + 1 :]
        self._state = self._text
        return bool(self._held)

    def _block(self, block: str, *, close: str) -> None:
        call = _read_call(block)
        if call is None:
            self._emit_text(f"{self._before}{OPEN}{block}{close}")
            return
        name, arguments = call
        self._start_call(name)
        self._emit_arguments(arguments)

    def _start_call(self, name: str) -> None:
        self._events.append(CallStart(self._calls, self._new_id(), name))
        self._calls += 1
        self._after_call = True

    def _emit_arguments(self, text: str) -> None:
        if text:
            self._events.append(CallArguments(self._calls - 1, text))

    def _emit_text(self, text: str) -> None:
        if text:
            self._events.append(Content(text))

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _trailing_backslashes(text: str) -> int:
    return len(text) - len(text.rstrip("\\"))


def _ends_call(tail: str) -> bool:
    """Whether `tail` is what may stand between a call's arguments and its closing marker."""
    text = tail.rstrip()
    if not text or (text.startswith("}") and CLOSE.startswith(text[1:].lstrip())):
        return True
    return isinstance(_loads('{"":0' + text), dict)


def _read_call(block: str) -> tuple[str, str] | None:
    """Name and arguments (JSON text) of a whole block; None when it is no call."""
    call = _loads(block)
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters")) or {}
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    return (call["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

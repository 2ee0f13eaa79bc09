"""The base of all parsers of tool calls, and how they read JSON that comes in pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from neuron.text.events import CallArguments, CallStart, Content, Event
from neuron.text.schema import Schema

ToolSchemas = Mapping[str, Schema]  # the schema of the arguments, by the tool's name
NewId = Callable[[str, int], str]  # the id of the call of that name, by its place in the answer
State = Callable[[], bool]

MAX_HEAD_CHARS = 1024
_STRUCTURE = re.compile(r'["{}\[\]]')
_STRUCTURE_OF_PYTHON = re.compile(r"""["'{}\[\]]""")
_STRING_ENDS = {quote: re.compile(rf"(?:[^{quote}\\]|\\.)*{quote}", re.DOTALL) for quote in ('"', "'")}


class JsonScanner:
    """Finds the end of a JSON object or array that comes in pieces. Follows the structure only.

    With `has_apostrophes` strings may stand between apostrophes, too, as in Python.
    """

    def __init__(self, depth: int = 0, *, has_apostrophes: bool = False) -> None:
        self._depth = depth
        self._quote = ""  # of the string that is open
        self._structure = _STRUCTURE_OF_PYTHON if has_apostrophes else _STRUCTURE

    def take(self, text: str) -> tuple[int, bool]:
        """How many characters of `text` belong to the value, and whether it ends there.

        The next call begins with what was left of `text`.
        """
        at = 0
        while at < len(text):
            if self._quote:
                end = _STRING_ENDS[self._quote].match(text, at)
                if not end:
                    return len(text) - _trailing_backslashes(text) % 2, False
                at = end.end()
                self._quote = ""
            elif not (sign := self._structure.search(text, at)):
                return len(text), False
            elif sign[0] in "\"'":
                at = sign.end()
                self._quote = sign[0]
            else:
                at = sign.end()
                self._depth += 1 if sign[0] in "{[" else -1
                if self._depth == 0:
                    return at, True
        return at, False


class CallParser:
    """A state machine over `_held`, the text that was read and is not decided yet.

    A state handles what is held and returns whether the next state shall go on with the rest.
    """

    is_reasoning = False

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._state: State = self._text
        self._held = ""
        self._num_calls = 0
        self.num_closed = 0  # calls whose arguments are complete
        self.num_malformed = 0  # what opened like a call and came out as text
        self._events: list[Event] = []

    def feed(self, text: str) -> list[Event]:
        """The events of the next piece of text."""
        self._held += text
        while self._state():
            pass
        return self._take_events()

    def finish(self) -> list[Event]:
        """The events of what is still held when the output is over: a call if it is one, else text."""
        self._end()
        self._held = ""
        return self._take_events()

    def _text(self) -> bool:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _start_call(self, name: str, number: int | None = None) -> None:
        """Start the call of `name`; `number` is its place where the model writes one."""
        index = self._num_calls
        name = name.encode(errors="replace").decode()  # JSON can spell half a character, UTF-8 cannot
        self._events.append(CallStart(index, self._new_id(name, index if number is None else number), name))
        self._num_calls += 1

    def _emit_arguments(self, text: str) -> None:
        if text:
            self._events.append(CallArguments(self._num_calls - 1, text))

    def _end_call(self) -> None:
        self.num_closed += 1

    def _emit_text(self, text: str) -> None:
        if text:
            self._events.append(Content(text))

    def _emit_malformed(self, text: str) -> None:
        """Show what opened like a call and is none."""
        self.num_malformed += 1
        self._emit_text(text)

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _whole_call(self, call: tuple[str, str]) -> None:
        self._start_call(call[0])
        self._emit_arguments(call[1])
        self._end_call()

    def _stream_arguments(self, scanner: JsonScanner) -> bool:
        """Pass on the held part of the arguments; returns whether they ended."""
        size, is_over = scanner.take(self._held)
        self._emit_arguments(self._held[:size])
        self._held = self._held[size:]
        if is_over:
            self._end_call()
        return is_over


def is_rest_of_object(text: str) -> bool:
    """Whether `text`, standing after a value in an object, ends that object."""
    return isinstance(loads('{"":0' + text), dict)


def loads(text: str) -> Any:
    """The JSON value; None for what is not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def dumps(value: Any) -> str:
    """The JSON text of a value; characters are escaped where one is a lone half, which UTF-8 cannot hold."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _trailing_backslashes(text: str) -> int:
    return len(text) - len(text.rstrip("\\"))

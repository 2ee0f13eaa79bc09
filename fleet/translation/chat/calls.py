"""Assembling tool calls from the fragments that chat upstreams send.

Servers tie a fragment to its call by `index`, by id, by name or by order, and differ in which of these they
omit, repeat or keep constant. The calls are returned one after the other: the first streams, and one that
begins before the first is complete waits.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from fleet.translation.events import Event, ToolCallArguments, ToolCallEnd, ToolCallStart

_MARKS = re.compile(r"""\\.|["\\{}\[\]]""", re.DOTALL)


class _Extent:
    """Whether a JSON object that arrives in fragments is complete. Reads each character once."""

    __slots__ = ("_begun", "_depth", "_escaped", "_in_string")

    def __init__(self) -> None:
        self._depth = 0
        self._begun = self._in_string = self._escaped = False

    @property
    def whole(self) -> bool:
        return self._begun and self._depth == 0

    def feed(self, text: str) -> None:
        if self._escaped and text:
            text, self._escaped = text[1:], False
        for mark in _MARKS.findall(text):
            if mark[0] == "\\":
                self._escaped = len(mark) == 1
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._begun = True
                self._depth += 1 if mark in "{[" else -1


class _Call:
    __slots__ = ("_extent", "_measured", "fragments", "id", "name", "said", "started")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.fragments: list[str] = []
        self.said = 0  # fragments that were returned
        self.started = False
        self._extent = _Extent()
        self._measured = 0  # fragments that _extent has seen

    def is_whole(self) -> bool:
        for fragment in self.fragments[self._measured :]:
            self._extent.feed(fragment)
        self._measured = len(self.fragments)
        return self._extent.whole


class ToolCalls:
    """The calls of one answer. A call without an id gets one from `prefix`, unique in the conversation."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._last: _Call | None = None
        self._open: list[_Call] = []  # in order; only the first has started
        self._ids: set[str] = set()  # that were used

    @property
    def any(self) -> bool:
        """Whether the answer has made a call."""
        return bool(self._ids)

    @property
    def unfinished(self) -> bool:
        return bool(self._open)

    @property
    def whole(self) -> bool:
        """Whether every open call has complete arguments."""
        return all(call.is_whole() for call in self._open)

    @property
    def runnable(self) -> bool:
        """Whether every call could run if the answer ended here; an open one may lack arguments."""
        return all(call.name and (call.is_whole() or not call.fragments) for call in self._open)

    def feed(self, entries: list[Any]) -> list[Event]:
        events: list[Event] = []
        for position, entry in enumerate(entries):
            if isinstance(entry, dict):
                call = self._call_of(entry, position)
                self._take(call, entry)
                self._advance(events)
        return events

    def finish(self) -> list[Event]:
        """The events that end every open call; one without a name gets an empty name, to be answered."""
        events: list[Event] = []
        for call in self._open:
            if call.id or call.name or call.fragments:
                self._say(call, events)
                events.append(ToolCallEnd())
        self._open.clear()
        return events

    def _call_of(self, entry: dict[str, Any], position: int) -> _Call:
        index, id_ = entry.get("index"), _string(entry.get("id"))
        if isinstance(index, int):
            call = self._by_index.get(index)
            if call is None or (id_ and call.id and id_ != call.id and (_name(entry) or call.is_whole())):
                call = self._by_index[index] = self._new()  # an id alone may be the fragment's own
        elif id_:
            call = self._by_id.get(id_) or self._new()
        else:
            call = self._next_or_last(entry, position)
        if id_:
            self._by_id.setdefault(id_, call)
        self._last = call
        return call

    def _next_or_last(self, entry: dict[str, Any], position: int) -> _Call:
        """The call of a fragment without index and id: a new name starts one, as does a repeated name after
        complete arguments.
        """
        last, name = self._last, _name(entry)
        if last is None:
            return self._new()
        if not name or not last.name:
            return last
        again = position > 0 or (bool(_arguments(entry)) and last.is_whole())
        return self._new() if name != last.name or again else last

    def _new(self) -> _Call:
        call = _Call()
        self._open.append(call)
        return call

    def _take(self, call: _Call, entry: dict[str, Any]) -> None:
        call.id = call.id or _string(entry.get("id"))
        call.name = call.name or _name(entry)
        fragment = _arguments(entry)
        if fragment and (call.fragments or fragment.strip() not in {"", "null"}):
            call.fragments.append(fragment)

    def _advance(self, events: list[Event]) -> None:
        """Stream the first open call, and end it when it is complete and another waits."""
        while self._open:
            first = self._open[0]
            if first.name:
                self._say(first, events)
            if len(self._open) == 1 or not (first.name and first.is_whole()):
                return
            events.append(ToolCallEnd())
            del self._open[0]

    def _say(self, call: _Call, events: list[Event]) -> None:
        if not call.started:
            call.started = True
            events.append(ToolCallStart(self._unique_id(call), call.name))
        events.extend(ToolCallArguments(fragment) for fragment in call.fragments[call.said :])
        call.said = len(call.fragments)

    def _unique_id(self, call: _Call) -> str:
        id_, number = call.id, len(self._ids)
        while not id_ or id_ in self._ids:
            id_, number = f"call_{self.prefix}_{number}", number + 1
        self._ids.add(id_)
        return id_


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _function(entry: dict[str, Any]) -> dict[str, Any]:
    function = entry.get("function")
    return function if isinstance(function, dict) else {}


def _name(entry: dict[str, Any]) -> str:
    return _string(_function(entry).get("name"))


def _arguments(entry: dict[str, Any]) -> str:
    """The fragment as JSON text; some servers send parsed arguments."""
    arguments = _function(entry).get("arguments")
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return msgspec.json.encode(arguments).decode()

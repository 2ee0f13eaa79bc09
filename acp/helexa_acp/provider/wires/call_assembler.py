"""Assembly of tool calls from streamed fragments.

Servers number fragments by index, by id, by both or not at all; they repeat ids and names in every chunk,
omit them, start at one, or give every call index zero. `CallAssembler` makes calls with indices 0, 1, 2…
of all that. A call starts once its name is known, keeps its argument text verbatim, and has an id even if
the server sent none.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from helexa_acp.provider.tool_arguments import infer_tool_name, is_complete
from helexa_acp.provider.types import CompletionEvent, ToolCallArgsDelta, ToolCallEnd, ToolCallStart


@dataclass(slots=True)
class _Slot:
    index: int
    id: str
    name: str
    started: bool = False
    arguments: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.arguments)


class CallAssembler:
    """The calls of one answer, in the order in which their first fragments arrived."""

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._by_key: dict[Hashable, _Slot] = {}

    def __bool__(self) -> bool:
        return bool(self._slots)

    @property
    def complete(self) -> bool:
        """Whether the arguments of every call are complete."""
        return all(is_complete(slot.text) for slot in self._slots)

    def fragment(self, key: Hashable | None, id: str, name: str, arguments: Any) -> list[CompletionEvent]:  # noqa: A002
        """Return the events of one fragment. `key` is what the server numbers calls by, or None."""
        text = _as_text(arguments)
        slot = self._find(key, id, name, text)
        if key is not None:
            self._by_key[key] = slot
        slot.id = slot.id or id
        slot.name = slot.name or name
        return [*self._start(slot), *self._append(slot, text)]

    def finish_arguments(self, key: Hashable, whole: str) -> list[CompletionEvent]:
        """Return the rest of a call's arguments, given all of them; nothing that was emitted before."""
        slot = self._by_key.get(key)
        if slot is None or not whole.startswith(slot.text):
            return []
        return self._append(slot, whole[len(slot.text) :])

    def knows(self, key: Hashable) -> bool:
        return key in self._by_key

    def close(self) -> list[CompletionEvent]:
        """Return the ends of all calls. A call that got no name is given the one that its arguments imply."""
        events: list[CompletionEvent] = []
        for slot in self._slots:
            if not slot.started:
                slot.name = slot.name or infer_tool_name(slot.text)
                events += self._start(slot, force=True)
            events.append(ToolCallEnd(slot.index))
        return events

    def _find(self, key: Hashable | None, id: str, name: str, arguments: str) -> _Slot:  # noqa: A002
        candidate = self._candidate(key, id)
        if candidate is not None and _continues(candidate, id, name, arguments):
            return candidate
        return self._by_id(id) or self._new(id, name)

    def _candidate(self, key: Hashable | None, id: str) -> _Slot | None:  # noqa: A002
        if key is not None:
            return self._by_key.get(key)
        return self._by_id(id) if id else self._last

    @property
    def _last(self) -> _Slot | None:
        return self._slots[-1] if self._slots else None

    def _by_id(self, id: str) -> _Slot | None:  # noqa: A002
        return next((slot for slot in self._slots if id and slot.id == id), None)

    def _new(self, id: str, name: str) -> _Slot:  # noqa: A002
        slot = _Slot(len(self._slots), id, name)
        self._slots.append(slot)
        return slot

    def _start(self, slot: _Slot, *, force: bool = False) -> list[CompletionEvent]:
        if slot.started or not (slot.name or force):
            return []
        slot.started = True
        events: list[CompletionEvent] = [
            ToolCallStart(slot.index, slot.id or f"call_{slot.index}", slot.name)
        ]
        if slot.arguments:  # they arrived before the name
            events.append(ToolCallArgsDelta(slot.index, slot.text))
        return events

    def _append(self, slot: _Slot, text: str) -> list[CompletionEvent]:
        if not text:
            return []
        slot.arguments.append(text)
        return [ToolCallArgsDelta(slot.index, text)] if slot.started else []


def _continues(slot: _Slot, id: str, name: str, arguments: str) -> bool:  # noqa: A002
    """Return whether the fragment belongs to this call.

    A new id or name starts another call, and so does a name with arguments once this call's arguments are
    complete.
    """
    if id and slot.id:
        return id == slot.id
    if name and slot.name and name != slot.name:
        return False
    return not (name and arguments and slot.arguments and is_complete(slot.text))


def _as_text(arguments: Any) -> str:
    if arguments is None:
        return ""
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False)

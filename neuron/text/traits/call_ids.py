"""Ids of tool calls in the shape that a template takes, on the way in and on the way out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from neuron.text.notations.notation import numbered_id, short_id
from neuron.text.notations.parser import NewId
from neuron.text.traits.template_traits import IdShape

Json = dict[str, Any]

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NINE = re.compile(r"[0-9A-Za-z]{9}")


def new_ids(shape: IdShape, usual: NewId, num_before: int) -> NewId:
    """What makes the ids of an answer's calls, in a conversation that had `num_before` calls.

    `usual` is the notation's own way, where the template takes any id.
    """
    if shape == "alphanumeric9":
        return short_id
    if shape == "indexed" or usual is numbered_id:
        return lambda name, index: numbered_id(name, num_before + index)
    return usual


def example_id(shape: IdShape, index: int, name: str) -> str:
    """An id in the shape for a conversation's call number `index`, from 0."""
    return numbered_id(name, index) if shape == "indexed" else _nine(f"{index} {name}", set(), shape)


def in_shape(messages: Sequence[Json], shape: IdShape) -> list[Json]:
    """The messages with every id in the shape, calls and results alike; ids that differ stay different.

    An id that is in the shape stays, unless the shape counts the calls and it is out of turn. A call without
    an id gets one, and results without one belong to the calls before them, in order.
    """
    if shape == "any":
        return list(messages)
    names = _Renaming(shape, _ids(messages))
    return [names.of(message) for message in messages]


def num_calls(messages: Sequence[Json]) -> int:
    """How many calls a conversation has."""
    return sum(len(message.get("tool_calls") or ()) for message in messages)


def _ids(messages: Sequence[Json]) -> set[str]:
    return {call.get("id") or "" for message in messages for call in message.get("tool_calls") or ()}


class _Renaming:
    """Goes through a conversation once, in order."""

    def __init__(self, shape: IdShape, ids: set[str]) -> None:
        self._shape = shape
        self._taken = {id_ for id_ in ids if _NINE.fullmatch(id_)}
        self._new: dict[str, str] = {}  # by the id as it came; a later call with the same id takes over
        self._open: list[str] = []  # new ids of calls without a result yet
        self._num_calls = 0

    def of(self, message: Json) -> Json:
        if calls := message.get("tool_calls"):
            self._open = []
            return message | {"tool_calls": [self._call(call) for call in calls]}
        if message.get("role") == "tool":
            return message | {"tool_call_id": self._result(message.get("tool_call_id") or "")}
        return message

    def _call(self, call: Json) -> Json:
        old = call.get("id") or ""
        new = self._next(old, call["function"]["name"])
        self._num_calls += 1
        self._new[old] = new
        self._open.append(new)
        return call | {"id": new}

    def _next(self, old: str, name: str) -> str:
        if self._shape == "indexed":
            return numbered_id(name, self._num_calls)
        if old in self._new:
            return self._new[old]
        if _NINE.fullmatch(old):
            return old
        new = _nine(old or f"{self._num_calls} {name}", self._taken, self._shape)
        self._taken.add(new)
        return new

    def _result(self, old: str) -> str:
        new = self._new.get(old) if old else None
        if new is None:
            new = self._open[0] if self._open else self._next(old, "unknown")
        if new in self._open:
            self._open.remove(new)
        return new


def _nine(text: str, taken: set[str], shape: IdShape) -> str:
    """Nine letters and digits made of `text`, the same each time, and none of `taken`; or an id as usual."""
    for attempt in range(len(taken) + 1):
        digest = hashlib.sha256(f"{attempt} {text}".encode(errors="replace")).digest()
        made = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:9])
        if made not in taken:
            break
    return made if shape == "alphanumeric9" else f"call_{digest.hex()[:24]}"

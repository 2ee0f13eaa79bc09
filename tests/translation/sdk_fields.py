"""The fields of the official SDKs' request types beside those of the translation.

A type of an SDK and a struct that reads it are walked together. A field that both have is read: translated,
or refused for its value. An object whose type no struct has is refused by name, as is a field that a struct
forbids. What is left has no effect.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NotRequired, Required

import msgspec
from typing_extensions import get_type_hints, is_typeddict

from fleet.translation.messages import wire as messages
from fleet.translation.responses import wire as responses
from neuron.api.bodies import chat

_MANY = (list, collections.abc.Iterable, collections.abc.Sequence)
_WRAPPERS = (Required, NotRequired, typing.Annotated)
# Items are decoded one by one, and types of tools are looked at after decoding.
_ITEMS = {(responses.ResponsesBody, "input"): responses.Item}
_TYPES: dict[type, set[str | None]] = {
    messages.Tool: {"custom", None},
    responses.Tool: {"function", "custom", "namespace"},
    responses.ToolChoice: {"function", "custom", "allowed_tools"},
    responses.AllowedTool: {"function", "custom"},
    chat.ContentPart: {"text", "image_url"},
}


class Walk:
    """`unread` are the fields without an effect, as `object.field`; `refused` the types refused, by field."""

    def __init__(self, struct: type[msgspec.Struct], *sdks: Any) -> None:
        self.unread: set[str] = set()
        self.refused: set[tuple[str, str]] = set()
        self._seen: set[tuple[Any, type]] = set()
        for sdk in sdks:
            self._pair(sdk, struct, "")

    def _pair(self, sdk: Any, struct: type[msgspec.Struct], where: str) -> None:
        if (sdk, struct) in self._seen:
            return
        self._seen.add((sdk, struct))
        read = get_type_hints(struct)
        for name, hint in get_type_hints(sdk).items():
            path = f"{where}.{name}" if where else name
            if name in read:
                self._field(hint, _ITEMS.get((struct, name), read[name]), path)
            elif name != struct.__struct_config__.tag_field:
                self._unread(struct, path)

    def _unread(self, struct: type[msgspec.Struct], path: str) -> None:
        if not struct.__struct_config__.forbid_unknown_fields:
            self.unread.add(path)

    def _field(self, hint: Any, inner: Any, path: str) -> None:
        structs = [
            part for part in _parts(inner) if isinstance(part, type) and issubclass(part, msgspec.Struct)
        ]
        for part in _parts(hint):
            if is_typeddict(part) and structs:
                self._object(part, structs, path)

    def _object(self, sdk: Any, structs: list[type[msgspec.Struct]], path: str) -> None:
        kinds = _kinds(get_type_hints(sdk))
        readers = [struct for struct in structs if not kinds or kinds & (_accepted(struct) or kinds)]
        for struct in readers:
            tag = struct.__struct_config__.tag
            self._pair(sdk, struct, tag if isinstance(tag, str) else path)
        if not readers:
            self.refused |= {(path, kind) for kind in kinds}


def _parts(hint: Any) -> Iterator[Any]:
    """The members of a union, the elements of a list."""
    origin = typing.get_origin(hint)
    if origin in _WRAPPERS or origin in _MANY:
        yield from _parts(typing.get_args(hint)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(hint):
            yield from _parts(member)
    else:
        yield hint


def _kinds(hints: dict[str, Any]) -> set[Any]:
    """The values of the `type` of an object, or of its `role`."""
    hint = hints.get("type", hints.get("role"))
    literals = [part for part in _parts(hint) if typing.get_origin(part) is Literal]
    return {value for literal in literals for value in typing.get_args(literal)}


def _accepted(struct: type[msgspec.Struct]) -> set[Any]:
    """The types that a struct stands for; empty where it has any."""
    tag = struct.__struct_config__.tag
    return _TYPES.get(struct) or ({tag} if tag is not None else _kinds(get_type_hints(struct)))

"""Fields of a JSON body that its struct does not read: those of objects within it as well."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

MAX_NAMES = 64  # of one body; who sends more is told of so many

Places = Mapping[tuple[type[msgspec.Struct], str], Any]


class UnreadFields:
    """Names the fields of bodies that a struct does not read.

    A field of an object within is named after the object's `type` where several are possible, else after the
    place: "text.colour", "tools.colour". Fields in `tolerated`, and null ones of such objects, are not named.
    `places` has the types of fields that are decoded later. Structs that forbid unknown fields have none.
    """

    def __init__(
        self, struct: type[msgspec.Struct], tolerated: Collection[str] = (), places: Places | None = None
    ) -> None:
        self._struct = struct
        self._tolerated = frozenset(tolerated)
        self._places = places or {}

    def of(self, body: bytes) -> tuple[str, ...]:
        """Return the names, each once, in the order of the body, which must be valid."""
        value = msgspec.json.decode(body)
        names: dict[str, None] = {}
        for name in self._object(value, self._struct, ""):
            names[name] = None
            if len(names) == MAX_NAMES:
                break
        return tuple(names)

    def _object(self, value: dict[str, Any], struct: type[msgspec.Struct], where: str) -> Iterator[str]:
        fields, forbids = _fields(struct), struct.__struct_config__.forbid_unknown_fields
        for name, inner in value.items():
            path = f"{where}.{name}" if where else name
            if name in fields:
                if isinstance(inner, dict | list):
                    kinds = _structs(self._places.get((struct, name), fields[name]))
                    if kinds:
                        yield from self._within(inner, kinds, path)
            elif not (forbids or path in self._tolerated or (where and inner is None)):
                yield path

    def _within(self, value: Any, kinds: dict[str | None, type[msgspec.Struct]], path: str) -> Iterator[str]:
        if isinstance(value, list):
            for inner in value:
                yield from self._within(inner, kinds, path)
        elif isinstance(value, dict):
            struct = kinds.get(_tag(value, kinds.values()))
            if struct is not None:
                yield from self._object(value, struct, _name(struct, path))


def _tag(value: dict[str, Any], kinds: Iterable[type[msgspec.Struct]]) -> str | None:
    """The tag of an object; None where its structs have no tags, or it has none."""
    for kind in kinds:
        if (tag_field := kind.__struct_config__.tag_field) is not None:
            tag = value.get(tag_field)
            return tag if isinstance(tag, str) else None
    return None


def _name(struct: type[msgspec.Struct], path: str) -> str:
    tag = struct.__struct_config__.tag
    return tag if isinstance(tag, str) else path


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The types of a struct's fields, by their names in JSON."""
    fields: dict[str, Any] = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    if (tag_field := struct.__struct_config__.tag_field) is not None:
        fields[tag_field] = str
    return fields


@cache
def _structs(hint: Any) -> dict[str | None, type[msgspec.Struct]]:
    """The structs among a type's members and elements, by their tags."""
    found: dict[str | None, type[msgspec.Struct]] = {}
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        tag = hint.__struct_config__.tag
        found[tag if isinstance(tag, str) else None] = hint
    elif get_origin(hint) in {Union, UnionType, list, Annotated}:
        members = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
        for member in members:
            found |= _structs(member)
    return found

# cython: language_level=3, annotation_typing=False
"""Fields of a JSON body that its struct does not read: those of objects within it as well."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

MAX_NAMES = 64  # of one body; who sends more is told of so many

Places = Mapping[tuple[type[msgspec.Struct], str], Any]

_NESTED = (dict, list)


class UnreadFields:
    """Names the fields of bodies that a struct does not read.

    A field of an object within is named after the object's `type` where several are possible, else after the
    place: "text.colour", "tools.colour". Fields in `tolerated`, and null ones of such objects, are not named.
    `places` has the types of fields that are decoded later. Structs that forbid unknown fields have none.
    """

    def __init__(
        self, struct: type[msgspec.Struct], tolerated: Collection[str] = (), places: Places | None = None
    ) -> None:
        self._tolerated = frozenset(tolerated)
        self._body = _kind(struct, places or {}, {})

    def of(self, body: bytes) -> tuple[str, ...]:
        """Return the names, each once, in the order of the body, which must be valid."""
        names: dict[str, None] = {}
        self._object(msgspec.json.decode(body), self._body, "", names)
        return tuple(names)

    def _object(self, value: dict[str, Any], kind: _Kind, where: str, names: dict[str, None]) -> None:
        fields = kind.fields
        for name, inner in value.items():
            kinds = fields.get(name, _UNREAD)
            if kinds is _UNREAD:
                if not kind.forbids and not (where and inner is None):
                    self._note(_path(where, name), names)
            elif kinds is not None and isinstance(inner, _NESTED):
                self._within(inner, kinds, _path(where, name), names)

    def _note(self, path: str, names: dict[str, None]) -> None:
        if path not in self._tolerated and len(names) < MAX_NAMES:
            names[path] = None

    def _within(self, value: Any, kinds: _Kinds, path: str, names: dict[str, None]) -> None:
        if isinstance(value, list):
            for inner in value:
                self._within(inner, kinds, path, names)
        elif isinstance(value, dict):
            kind = kinds.of(value)
            if kind is not None:
                self._object(value, kind, kind.tag or path, names)


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


class _Kind:
    """A struct; `fields` has what may stand in each field, None where no structs do."""

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        config = struct.__struct_config__
        self.tag = config.tag if isinstance(config.tag, str) else None
        self.tag_field = config.tag_field
        self.forbids = config.forbid_unknown_fields
        self.fields: dict[str, _Kinds | None] = {}


class _Kinds:
    """The structs that may stand in one place, by their tags."""

    def __init__(self, kinds: Collection[_Kind]) -> None:
        self._by_tag = {kind.tag: kind for kind in kinds}
        self._tag_field = next((kind.tag_field for kind in kinds if kind.tag_field is not None), None)

    def of(self, value: dict[str, Any]) -> _Kind | None:
        """Return the struct of an object; None where it has an unknown tag, or lacks one."""
        tag = None if self._tag_field is None else value.get(self._tag_field)
        return self._by_tag.get(tag if isinstance(tag, str) else None)


_UNREAD = _Kinds(())


def _kind(struct: type[msgspec.Struct], places: Places, made: dict[type[msgspec.Struct], _Kind]) -> _Kind:
    if (kind := made.get(struct)) is not None:
        return kind
    kind = made[struct] = _Kind(struct)
    if kind.tag_field is not None:
        kind.fields[kind.tag_field] = None
    for field in msgspec.structs.fields(struct):
        name = field.encode_name
        structs = _structs(places.get((struct, name), field.type))
        kind.fields[name] = _Kinds([_kind(each, places, made) for each in structs]) if structs else None
    return kind


def _structs(hint: Any) -> list[type[msgspec.Struct]]:
    """Return the structs among a type's members and elements."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    if get_origin(hint) not in {Union, UnionType, list, Annotated}:
        return []
    members = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return [struct for member in members for struct in _structs(member)]

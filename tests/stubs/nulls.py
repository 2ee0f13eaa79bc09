"""Bodies as generated clients send them: every optional field is there, as null."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

Path = tuple[str | int, ...]


def optional_places(
    body: dict[str, Any], is_accepted: Callable[[Any], bool], *, free: Collection[str] = ()
) -> list[Path]:
    """The places of an accepted body that may be left out; nothing within fields named in `free`."""
    return [path for path in _places(body, free) if is_accepted(without(body, [path]))]


def _places(value: Any, free: Collection[str]) -> Iterator[Path]:
    inner = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, child in inner:
        if isinstance(key, str):
            yield (key,)
        if key not in free:
            yield from ((key, *rest) for rest in _places(child, free))


def without(body: Any, places: Collection[Path]) -> Any:
    return _changed(body, places, lambda parent, key: parent.pop(key, None))


def with_nulls(body: Any, places: Collection[Path]) -> Any:
    return _changed(body, places, lambda parent, key: parent.update({key: None}))


def _changed(body: Any, places: Collection[Path], change: Callable[[Any, Any], object]) -> Any:
    body = copy.deepcopy(body)
    for *path, last in sorted(places, key=len, reverse=True):  # what is deeper first
        parent = body
        for key in path:
            parent = parent[key]
        change(parent, last)
    return body

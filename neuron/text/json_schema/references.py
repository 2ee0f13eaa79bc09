"""References of a JSON Schema (2020-12 core, section 8.2): pointers, anchors and embedded `$id`s.

Nothing is ever fetched: a reference leads to a place in the same document, or nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urljoin

from neuron.text.json_schema.problem import Place

_INDEX = re.compile(r"[0-9]{1,9}")
_DATA = {"enum", "const", "default", "examples"}  # keywords whose values are no schemas


class References:
    """Finds what references mean. `root` is the whole schema.

    With `ref_stands_alone`, as in draft 7, what stands beside a `$ref` means nothing, `$id` included.
    """

    def __init__(self, root: Any, *, ref_stands_alone: bool) -> None:
        self._ref_stands_alone = ref_stands_alone
        self._found: dict[str, tuple[Any, Place]] = {"": (root, Place())}
        self._found |= dict(self._named(root, Place()))

    def resolve(self, reference: str, base: str) -> tuple[Any, Place] | None:
        """The schema that `reference` means, and its place; None when it is not in the document."""
        uri, _, fragment = _joined(base, reference).partition("#")
        if fragment and not fragment.startswith("/"):
            return self._found.get(f"{uri}#{fragment}")
        found = self._found.get(uri)
        return found and self._follow(*found, unquote(fragment))

    def enter(self, node: dict[str, Any], place: Place) -> Place:
        """The place of `node`, with the base that its own `$id` makes."""
        own = node.get("$id")
        is_void = self._ref_stands_alone and "$ref" in node
        if not isinstance(own, str) or own.startswith("#") or is_void:
            return place
        return replace(place, base=_joined(place.base, own).partition("#")[0])

    def _named(self, node: Any, place: Place) -> Iterator[tuple[str, tuple[Any, Place]]]:
        """The schemas at and below `node` that have a URI of their own."""
        if isinstance(node, list):
            for index, value in enumerate(node):
                yield from self._named(value, place / index)
        elif isinstance(node, dict):
            place = self.enter(node, place)
            if isinstance(own := node.get("$id"), str):  # one that is a fragment is an anchor, in draft 7
                yield (place.base + own if own.startswith("#") else place.base), (node, place)
            if isinstance(node.get("$anchor"), str):
                yield f"{place.base}#{node['$anchor']}", (node, place)
            for key, value in node.items():
                if key not in _DATA:
                    yield from self._named(value, place / key)

    def _follow(self, node: Any, place: Place, pointer: str) -> tuple[Any, Place] | None:
        for escaped in pointer.split("/")[1:]:
            step = escaped.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and step in node:
                node = node[step]
            elif isinstance(node, list) and _INDEX.fullmatch(step) and int(step) < len(node):
                node = node[int(step)]
            else:
                return None
            place = place / step
            if isinstance(node, dict):
                place = self.enter(node, place)
        return node, place


def _joined(base: str, reference: str) -> str:
    if reference.startswith("#"):
        return base + reference
    try:
        return urljoin(base, reference)
    except ValueError:  # an address that is none
        return reference

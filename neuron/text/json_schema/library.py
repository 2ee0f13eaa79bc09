"""What the library says of a schema and of its parts: it gives reasons, but no places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher

from neuron.text.json_schema.disjoint import subschemas
from neuron.text.schema import Schema

MAX_TRIED = 500  # parts of one schema, and
MAX_TRIED_BYTES = 8 << 20  # of their JSON in all
UNSATISFIABLE = "Unsatisfiable schema: "
TOO_LARGE = "schema too large"


class TooMuchTriedError(Exception):
    """The culprit in a schema was not found with reasonable effort."""


class Parts:
    """Tries parts of one normalised schema by themselves. Methods raise `TooMuchTriedError`."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._definitions: Schema = root.get("$defs", {})
        self._tried = 0
        self._tried_bytes = 0

    def is_refused(self, node: Schema) -> bool:
        """Whether the library refuses `node` by itself, for another reason than that nothing satisfies it."""
        needed = {name: self._definitions[name] for name in self._reachable(node)}
        source = json.dumps({key: value for key, value in node.items() if key != "$defs"} | {"$defs": needed})
        self._tried += 1
        self._tried_bytes += len(source)
        if self._tried > MAX_TRIED or self._tried_bytes > MAX_TRIED_BYTES:
            raise TooMuchTriedError
        problem = library_problem(source)
        return problem is not None and not problem.startswith(UNSATISFIABLE)

    def culprit(self) -> Schema:
        """The smallest schema in the whole that the library refuses by itself."""
        node, seen = self._root, {id(self._root)}
        while True:
            below = (child for child in self._below(node) if id(child) not in seen)
            found = next((child for child in below if self.is_refused(child)), None)
            if found is None:
                return node
            node = found
            seen.add(id(node))

    def _below(self, node: Schema) -> Iterator[Schema]:
        yield from subschemas({key: value for key, value in node.items() if key != "$defs"})
        if isinstance(target := self._target(node), dict):
            yield target

    def _target(self, node: Schema) -> Any:
        return self._definitions.get(node.get("$ref", "").rpartition("/")[2])

    def _reachable(self, node: Schema) -> set[str]:
        """The names of the definitions that `node` needs."""
        found: set[str] = set()
        waiting = [{key: value for key, value in node.items() if key != "$defs"}]
        while waiting:
            for part in subschemas(waiting.pop(), deep=True):
                name = part.get("$ref", "").rpartition("/")[2]
                if name and name not in found:
                    found.add(name)
                    waiting += [self._definitions[name]] if isinstance(self._definitions[name], dict) else []
        return found


def library_problem(source: str) -> str | None:
    """Why the library makes no grammar of the schema `source`, whole; None when it does."""
    found = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(source))
    return found.strip() or None

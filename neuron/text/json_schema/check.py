"""Whether a grammar can be made of a client's schema; takes milliseconds, and for a few schemas minutes.

`check_schema` is a pure function of plain values, so that it can run in a process that may be killed.
"""

from __future__ import annotations

from dataclasses import dataclass

from neuron.text.json_schema.bounds import refuse_too_much
from neuron.text.json_schema.disjoint import one_of_to_any_of, settle_one_of, subschemas
from neuron.text.json_schema.finite import refuse_endless
from neuron.text.json_schema.library import (
    TOO_LARGE,
    UNSATISFIABLE,
    Parts,
    TooMuchTriedError,
    library_problem,
)
from neuron.text.json_schema.normaliser import Normaliser
from neuron.text.json_schema.problem import SchemaError
from neuron.text.schema import Schema, grammar_source

MAX_CONCESSIONS = 32  # keywords that are left out of one schema because the library refuses them
# Where several keywords of a schema could be at fault, the first of these is blamed.
_SUSPECTS = (
    *("oneOf", "pattern", "format", "minProperties", "maxProperties", "multipleOf", "patternProperties"),
    *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "allOf"),
)
# Where the library's own words mean nothing to a client.
_REASONS = {
    "oneOf": "the alternatives may overlap, and a grammar cannot count how many hold; anyOf needs no count",
    **dict.fromkeys(
        ("minProperties", "maxProperties"),
        "a grammar counts properties only where all that are listed are required",
    ),
}


@dataclass(frozen=True, slots=True)
class CheckedSchema:
    """What is enforced of a client's schema: all of it, but for the keywords that `unenforced` points to.

    With a `problem` nothing is: `pointer` says where, and `problem` the whole reason.
    """

    schema: Schema
    unenforced: tuple[str, ...] = ()
    pointer: str = ""
    problem: str | None = None


def check_schema(schema: Schema, *, is_strict: bool) -> CheckedSchema:
    """The schema as grammars take it. A strict one is enforced whole, or has a problem."""
    try:
        return _check(schema, is_strict=is_strict)
    except SchemaError as error:
        return CheckedSchema({}, pointer=error.pointer, problem=error.reason)
    except RecursionError:
        return CheckedSchema({}, problem="the schema is nested too deeply")


def rewritten(schema: Schema, *, is_strict: bool) -> tuple[Schema, Normaliser]:
    """The schema before the library looks at it, and who rewrote it. Raises `SchemaError`."""
    normaliser = Normaliser(schema, is_strict=is_strict)
    root = normaliser.normalise()
    refuse_endless(root, normaliser.places)
    settle_one_of(root)
    refuse_too_much(root, normaliser.places)
    return root, normaliser


def _check(schema: Schema, *, is_strict: bool) -> CheckedSchema:
    root, normaliser = rewritten(schema, is_strict=is_strict)
    concessions = _Concessions(root, normaliser, is_strict=is_strict)
    for _ in range(MAX_CONCESSIONS):
        problem = library_problem(grammar_source(root))
        if problem is None:
            return CheckedSchema(root, tuple(normaliser.unenforced))
        if problem == TOO_LARGE:
            raise SchemaError("", "it has too many parts")
        if problem.startswith(UNSATISFIABLE):
            raise SchemaError("", f"no value satisfies it: {problem.removeprefix(UNSATISFIABLE)}")
        try:
            concessions.make(problem)
        except TooMuchTriedError:
            break
    raise SchemaError("", problem or "")


class _Concessions:
    """Leaves out of a schema what the library refuses, by name; of a strict one nothing."""

    def __init__(self, root: Schema, normaliser: Normaliser, *, is_strict: bool) -> None:
        self._root = root
        self._normaliser = normaliser
        self._is_strict = is_strict
        self._parts = Parts(root)

    def make(self, problem: str) -> None:
        """Leave out one keyword; of `oneOf`, all that are refused. Raises `SchemaError` where strict."""
        if not self._count_nowhere(problem):
            node = self._parts.culprit()
            self._concede(node, self._suspect(node), problem)

    def _count_nowhere(self, problem: str) -> bool:
        """Concede each `oneOf` that is at fault by itself, the innermost first: there may be dozens."""
        if "oneOf" not in problem:
            return False
        before = len(self._normaliser.unenforced)
        for node in reversed(list(subschemas(self._root, deep=True))):
            if "oneOf" in node and self._parts.is_refused(node) and self._suspect(node) == "oneOf":
                self._concede(node, "oneOf", problem)
        return len(self._normaliser.unenforced) > before

    def _suspect(self, node: Schema) -> str | None:
        """The keyword without which the library would take `node`; None when there is no single one."""
        known = [keyword for keyword in _SUSPECTS if keyword in node]
        for keyword in [*known, *(other for other in node if other not in {*known, "$defs"})]:
            without = {key: value for key, value in node.items() if key != keyword}
            if not self._parts.is_refused(without):
                return keyword
        return None

    def _concede(self, node: Schema, keyword: str | None, problem: str) -> None:
        pointer = self._normaliser.places.get(id(node), "") + (f"/{keyword}" if keyword else "")
        if self._is_strict:
            raise SchemaError(pointer, _REASONS.get(keyword or "", problem))
        if pointer not in self._normaliser.unenforced:
            self._normaliser.unenforced.append(pointer)
        if keyword == "oneOf" and "anyOf" not in node:
            one_of_to_any_of(node)
        elif keyword:
            del node[keyword]
        else:
            for each in set(node) - {"$defs"}:
                del node[each]

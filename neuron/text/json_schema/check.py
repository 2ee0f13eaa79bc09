"""Whether a grammar can be made of a client's schema; takes milliseconds, and for a few schemas minutes.

`check_schema` is a pure function of plain values, so that it can run in a process that may be killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from llguidance import LLMatcher

from neuron.text.json_schema.bounds import refuse_too_much
from neuron.text.json_schema.disjoint import one_of_to_any_of, settle_one_of, subschemas
from neuron.text.json_schema.finite import refuse_endless
from neuron.text.json_schema.normaliser import Normaliser
from neuron.text.json_schema.problem import SchemaError
from neuron.text.schema import Schema, grammar_source

MAX_CONCESSIONS = 32  # keywords that are left out of one schema because the library refuses them
MAX_CHECKED = 256  # sources whose verdict is remembered
_UNSATISFIABLE = "Unsatisfiable schema: "
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


def _check(schema: Schema, *, is_strict: bool) -> CheckedSchema:
    normaliser = Normaliser(schema, is_strict=is_strict)
    root = normaliser.normalise()
    refuse_endless(root, normaliser.places)
    settle_one_of(root)
    refuse_too_much(root, normaliser.places)
    unenforced = normaliser.unenforced
    for _ in range(MAX_CONCESSIONS):
        problem = library_problem(grammar_source(root))
        if problem is None:
            return CheckedSchema(root, tuple(unenforced))
        if problem.startswith(_UNSATISFIABLE):
            raise SchemaError("", f"no value satisfies it: {problem.removeprefix(_UNSATISFIABLE)}")
        node = _culprit(root, root, set())
        keyword = _suspect(root, node)
        pointer = normaliser.places.get(id(node), "") + (f"/{keyword}" if keyword else "")
        if is_strict:
            raise SchemaError(pointer, _REASONS.get(keyword or "", problem))
        _concede(node, keyword)
        unenforced.append(pointer)
    raise SchemaError("", f"more than {MAX_CONCESSIONS} of its keywords cannot be enforced: {problem}")


def _concede(node: Schema, keyword: str | None) -> None:
    if keyword == "oneOf" and "anyOf" not in node:
        one_of_to_any_of(node)
    elif keyword:
        del node[keyword]
    else:
        for each in set(node) - {"$defs"}:
            del node[each]


def _culprit(root: Schema, node: Schema, seen: set[int]) -> Schema:
    """The smallest schema at or below `node` that the library refuses by itself."""
    seen.add(id(node))
    below = [child for child in subschemas(node) if node is not root or child is not root.get("$defs")]
    if target := root.get("$defs", {}).get(node.get("$ref", "").rpartition("/")[2]):
        below.append(target)
    for child in below:
        if id(child) not in seen and _is_refused(root, child):
            return _culprit(root, child, seen)
    return node


def _suspect(root: Schema, node: Schema) -> str | None:
    """The keyword without which the library would take `node`; None when there is no single one."""
    known = [keyword for keyword in _SUSPECTS if keyword in node]
    for keyword in [*known, *(other for other in node if other not in {*known, "$defs"})]:
        without = {key: value for key, value in node.items() if key != keyword}
        if not _is_refused(root, without):
            return keyword
    return None


def _is_refused(root: Schema, node: Schema) -> bool:
    problem = library_problem(grammar_source({**node, "$defs": root.get("$defs", {})}))
    return problem is not None and not problem.startswith(_UNSATISFIABLE)


@lru_cache(MAX_CHECKED)
def library_problem(source: str) -> str | None:
    """Why the library makes no grammar of `source`, whole; None when it does."""
    found = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(source))
    return found.strip() or None

"""JSON Schemas of answers and of tools' arguments, as far as grammars can enforce them."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

Schema = dict[str, Any]

ANY_OBJECT: Schema = {"type": "object"}
MAX_CHECKED = 256  # schemas whose verdict is remembered

# Room for pretty printing, but none to go on for ever.
_SPACING = {"x-guidance": {"whitespace_pattern": r"[ ]?|\n[ ]{0,32}"}}


def grammar_source(schema: Schema) -> str:
    """The schema as llguidance takes it, with the white space that answers may have."""
    return json.dumps(schema | _SPACING)


def schema_problem(schema: Schema) -> str | None:
    """Why no grammar can be made of `schema`; None when one can. Takes milliseconds, rarely more."""
    try:
        return _problem(grammar_source(schema))
    except RecursionError:
        return "it is nested too deeply"


@lru_cache(MAX_CHECKED)
def _problem(source: str) -> str | None:
    found = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(source))
    return found.strip().partition("\n")[0] or None

"""The forms in which calls may go into a template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from neuron.text.traits.call_ids import example_id
from neuron.text.traits.prober import OTHER_TOOL, RESULT, TOOL_NAME, USER, Json, message
from neuron.text.traits.template_traits import ArgumentForm, IdShape

Call = tuple[str, Mapping[str, Any]]  # name and arguments

_user = message("user", USER)


class _JsonText(dict[str, Any]):
    """An object that prints itself as JSON, for templates that print objects as they are."""

    def __repr__(self) -> str:
        return json.dumps(self, ensure_ascii=False)


class CallForm(NamedTuple):
    """How calls go into a template."""

    arguments: ArgumentForm = "object"
    has_null_content: bool = False
    ids: IdShape = "any"

    def round(self, *calls: Call, short_ids: bool = False) -> list[Json]:
        """A user's message, an answer that calls, and the results."""
        ids = [example_id(self.ids, index, name) for index, (name, _) in enumerate(calls)]
        ids = [id_[-1:] for id_ in ids] if short_ids else ids
        written = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": self._written(arguments)}}
            for id_, (name, arguments) in zip(ids, calls, strict=True)
        ]
        content = None if self.has_null_content else ""
        calling = {"role": "assistant", "content": content, "tool_calls": written}
        results = [
            message("tool", RESULT, tool_call_id=id_, name=name)
            for id_, (name, _) in zip(ids, calls, strict=True)
        ]
        return [_user, calling, *results]

    def _written(self, arguments: Mapping[str, Any]) -> Any:
        if self.arguments == "text":
            return json.dumps(arguments, ensure_ascii=False)
        return _JsonText(arguments) if self.arguments == "repr" else dict(arguments)


SIMPLE_CALL: Call = (TOOL_NAME, {"days": 3})  # for templates that neither quote nor escape
CALL: Call = (TOOL_NAME, {"city": 'Zürich "A"', "days": 3})
OTHER_CALL: Call = (OTHER_TOOL, {"city": "Oslo", "days": 4})
OTHER_WORDS = (OTHER_TOOL, "Oslo", "4")  # what a rendering of it has
FORMS = [
    CallForm(arguments, has_null_content, ids)
    for arguments in ("object", "text", "repr")
    for has_null_content in (False, True)
    for ids in ("any", "alphanumeric9", "indexed")
]

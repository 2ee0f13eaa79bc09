"""The calls that a field of a response template holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from neuron.text.notations.parser import ToolSchemas, loads
from neuron.text.notations.values import TEXT, as_json, kinds_of, member_of, quoted
from neuron.text.response.contents import transformed
from neuron.text.response.delimiters import TimeBudget
from neuron.text.response.fields import Field

Calls = list[tuple[str, str]]  # names, and arguments in JSON


def read_calls(
    field: Field, text: str, groups: dict[str, str], tools: ToolSchemas, budget: TimeBudget
) -> Calls:
    """The calls in a field's text. Raises `ValueError` where it holds none, and `OutOfTimeError`."""
    value = field.parser.read(text, budget)
    if field.transform is not None and field.is_transform_of_each:
        items = value if isinstance(value, list) else []
        value = [transformed(field.transform, {**groups, **item}) for item in items if isinstance(item, dict)]
    elif field.transform is not None:
        value = transformed(field.transform, {**groups, "content": value})
    calls = list(_calls(value, tools))
    if not calls:
        raise ValueError("no call")
    return calls


def _calls(value: Any, tools: ToolSchemas) -> Iterator[tuple[str, str]]:
    for item in value if isinstance(value, list) else [value]:
        call = item.get("function", item) if isinstance(item, dict) else {}
        name = call.get("name") if isinstance(call, dict) else None
        arguments = call.get("arguments") if isinstance(call, dict) else None
        if isinstance(arguments, str):
            arguments = loads(arguments)
        if not isinstance(name, str) or not name or not isinstance(arguments or {}, dict):
            raise ValueError("not a call")
        yield name, _typed(arguments or {}, tools.get(name) or {})


def _typed(arguments: dict[str, Any], schema: dict[str, Any]) -> str:
    """The arguments in JSON; a text whose type the schema knows better is read as that."""
    members = [
        f"{quoted(str(key))}: {_argument(value, member_of(schema, str(key), schema), schema)}"
        for key, value in arguments.items()
    ]
    return "{" + ", ".join(members) + "}"


def _argument(value: Any, schema: Any, root: dict[str, Any]) -> str:
    kinds = kinds_of(schema, root)
    if isinstance(value, str) and kinds and kinds != TEXT:
        return as_json(value, kinds)
    return json.dumps(value, ensure_ascii=False, allow_nan=False)

"""Gateways and neurons of neighbouring versions understand each other, in both directions.

`python -m tests.neuron.wires.make VERSION` keeps the wire of a release. A change that breaks one of these
raises `neuron.wire.PROTOCOL`, and the wires of the protocol before are deleted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from neuron import wire
from tests.neuron.wires.make import shapes

WIRES = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "wires").glob("*.json")}
MESSAGES = [(version, name) for version, kept in WIRES.items() for name in kept["shapes"]]


def sample(schema: dict, root: dict, *, whole: bool) -> Any:
    """A value of the schema: with all of its properties, or with those alone that it requires."""
    if "$ref" in schema:
        return sample(root["$defs"][schema["$ref"].rpartition("/")[2]], root, whole=whole)
    if "anyOf" in schema:
        return sample(schema["anyOf"][0], root, whole=whole)
    if "enum" in schema or "const" in schema:
        return schema.get("enum", [schema.get("const")])[0]
    match schema.get("type"):
        case "object":
            wanted = schema.get("properties", {})
            names = wanted if whole else schema.get("required", [])
            return {name: sample(wanted[name], root, whole=whole) for name in names}
        case "array":
            return [sample(schema["items"], root, whole=whole)] if whole and "items" in schema else []
        case "integer" | "number":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "x" * schema.get("minLength", 1)


def test_every_wire_that_is_kept_is_of_this_protocol():
    assert {kept["protocol"] for kept in WIRES.values()} == {wire.PROTOCOL}


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "required"])
@pytest.mark.parametrize(("version", "name"), MESSAGES)
def test_this_version_understands_the_other(version, name, whole):
    schema = WIRES[version]["shapes"][name]
    getattr(wire, name).model_validate(sample(schema, schema, whole=whole))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "required"])
@pytest.mark.parametrize(("version", "name"), MESSAGES)
def test_the_other_understands_this_version(version, name, whole):
    """What is sent always has every field: what is unset has its default."""
    schema = shapes()[name]
    message = getattr(wire, name).model_validate(sample(schema, schema, whole=whole))
    jsonschema.validate(message.model_dump(mode="json"), WIRES[version]["shapes"][name])


@pytest.mark.parametrize("name", sorted(shapes()))
def test_fields_of_a_later_version_are_ignored(name):
    schema = shapes()[name]
    getattr(wire, name).model_validate(sample(schema, schema, whole=False) | {"of_a_later_version": 1})

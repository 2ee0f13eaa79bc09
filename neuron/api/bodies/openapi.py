"""The bodies' JSON schemas for the OpenAPI page: msgspec decodes them, so ninja does not know them."""

from __future__ import annotations

from typing import Any

import msgspec

from neuron.api.bodies.chat import ChatBody
from neuron.api.bodies.completion import CompletionBody

BODIES = (ChatBody, CompletionBody)
_REFERENCES, COMPONENTS = msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")


def body_of(*kinds: type) -> dict[str, Any]:
    """The `openapi_extra` of an operation whose body is one of `kinds`."""
    schemas = [_REFERENCES[BODIES.index(kind)] for kind in kinds]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

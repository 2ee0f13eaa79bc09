"""What operations share: the OpenAPI description of bodies, and answers that are JSON already."""

from __future__ import annotations

from typing import Any

import msgspec
from django.http import HttpResponse


def object_schema() -> dict[str, Any]:
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
    }


def body_schema(required: list[str]) -> dict[str, Any]:
    """The OpenAPI description of a body. Bodies pass as bytes, so no schema class describes them."""
    schema = {
        "type": "object",
        "required": required,
        "properties": {
            "model": {"type": "string", "example": "helexa-tiny"},
            "messages": {"type": "array", "items": {"type": "object"}},
            "input": {"type": ["string", "array"]},
            "prompt": {"type": ["string", "array"]},
            "max_tokens": {"type": "integer"},
            "stream": {"type": "boolean"},
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def json_answer(answer: Any) -> HttpResponse:
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    return HttpResponse(body, content_type="application/json")

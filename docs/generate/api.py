"""The reference of the HTTP APIs, from their OpenAPI schemas."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

Schema = dict[str, Any]


def pages() -> dict[str, str]:
    """The page of each API, by its name below `api/`."""
    os.environ.setdefault("CORTEX_STATE_DIR", tempfile.mkdtemp())
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cortex_site.site.settings")
    import django  # noqa: PLC0415 - after its settings are named

    django.setup()
    from fleet.api import api as operator  # noqa: PLC0415 - after django.setup()

    return {
        "gateway.md": page("Gateway", "Port 31313: what clients speak.", gateway()),
        "operator.md": page(
            "Operator API", "Port 31315, with the operator token.", operator.get_openapi_schema()
        ),
    }


def gateway() -> Schema:
    from cortex_site.config.cortex_toml import CortexConfig  # noqa: PLC0415
    from fleet.gateway.app import make_api  # noqa: PLC0415
    from fleet.gateway.background import Background  # noqa: PLC0415
    from fleet.gateway.data_plane import DataPlane  # noqa: PLC0415

    control: Any = SimpleNamespace(batches=None)  # nothing is asked: the endpoints are described, not served
    plane = DataPlane(CortexConfig(), control, lambda records: None)
    schema: Schema = make_api(plane, Background(plane, 1)).get_openapi_schema(path_prefix="")
    return schema


def page(title: str, intro: str, schema: Schema) -> str:
    by_tag: dict[str, list[str]] = defaultdict(list)
    for path, methods in schema["paths"].items():
        for method, endpoint in methods.items():
            by_tag[(endpoint.get("tags") or ["Other"])[0]] += endpoint_lines(method, path, endpoint, schema)
    lines = [f"# {title}", "", intro, ""]
    for tag, found in by_tag.items():
        lines += [f"## {tag[0].upper()}{tag[1:]}", "", *found]
    return "\n".join(lines)


def endpoint_lines(method: str, path: str, endpoint: Schema, schema: Schema) -> Iterator[str]:
    yield from (f"### `{method.upper()} {path}`", "")
    yield from (endpoint.get("description") or f"{endpoint.get('summary', '')}.", "")
    rows = [*parameters(endpoint), *body(endpoint, schema)]
    if rows:
        yield from ("| field | where | type | |", "| --- | --- | --- | --- |")
        yield from (f"| `{name}` | {where} | {kind} | {text} |" for name, where, kind, text in rows)
        yield ""
    answers = (
        f"{status} {answer.get('description', '')}".strip()
        for status, answer in endpoint["responses"].items()
    )
    yield from (f"Answers: {', '.join(answers)}.", "")


def parameters(endpoint: Schema) -> Iterator[tuple[str, str, str, str]]:
    for each in endpoint.get("parameters", ()):
        needed = ", needed" if each.get("required") else ""
        yield (
            each["name"],
            f"{each['in']}{needed}",
            kind(each.get("schema", {})),
            cell(each.get("description")),
        )


def body(endpoint: Schema, schema: Schema) -> Iterator[tuple[str, str, str, str]]:
    content = endpoint.get("requestBody", {}).get("content", {})
    shape = next(iter(content.values()), {}).get("schema", {})
    if reference := shape.get("$ref"):
        shape = schema["components"]["schemas"][reference.rpartition("/")[2]]
    for name, field in shape.get("properties", {}).items():
        needed = ", needed" if name in shape.get("required", ()) else ""
        yield name, f"body{needed}", kind(field), cell(field.get("description"))


def kind(schema: Schema) -> str:
    if "anyOf" in schema:
        return " or ".join(kind(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    found = schema.get("type", "object")
    return " or ".join(found) if isinstance(found, list) else str(found)


def cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")

"""`helexa-acp doctor`: what each endpoint can do, found by asking it, with what was learned on the way.

Sends a few short completions to each endpoint's default model (or its first one). Exit status 1 if any
endpoint fails.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from helexa_acp.agent.sessions import make_home
from helexa_acp.cancellation import CancelToken
from helexa_acp.config import load_config
from helexa_acp.endpoint import Endpoint
from helexa_acp.provider.endpoints import Endpoints, ModelChoice
from helexa_acp.provider.errors import AuthFailedError, ProviderError, UnreachableError
from helexa_acp.provider.http import HttpProvider
from helexa_acp.provider.tool_arguments import is_complete
from helexa_acp.provider.types import (
    CompletionEvent,
    CompletionRequest,
    Message,
    ReasoningDelta,
    Role,
    TextDelta,
    ToolCallArgsDelta,
    ToolCallStart,
    ToolSpec,
    Usage,
)

HEADERS = (
    "endpoint",
    "reachable",
    "key",
    "models",
    "model",
    "streams",
    "tools",
    "reasoning",
    "usage",
    "context",
)
MAX_TOKENS = 512

PROBE = ToolSpec(
    "report",
    "Report a number.",
    {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]},
)


@dataclass(slots=True)
class Findings:
    endpoint: str
    cells: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: bool = False


def main(argv: list[str]) -> int:
    config = load_config()
    sys.stdout.write(f"configuration: {config.source}\n")
    for warning in config.warnings:
        sys.stdout.write(f"warning: {warning}\n")
    unknown = set(argv) - {endpoint.name for endpoint in config.endpoints}
    if unknown:
        sys.stderr.write(f"helexa-acp doctor: no usable endpoint is named {', '.join(sorted(unknown))}\n")
        return 2
    chosen = [endpoint for endpoint in config.endpoints if not argv or endpoint.name in argv]
    endpoints = make_home(config).endpoints
    findings = asyncio.run(_examine(endpoints, chosen))
    rows = [[f.endpoint, *(f.cells.get(header, "-") for header in HEADERS[1:])] for f in findings]
    sys.stdout.write("\n" + _table(HEADERS, rows))
    for finding in findings:
        for note in finding.notes:
            sys.stdout.write(f"{finding.endpoint}: {note}\n")
    return 1 if any(f.failed for f in findings) or config.warnings or not findings else 0


async def _examine(endpoints: Endpoints, chosen: list[Endpoint]) -> list[Findings]:
    endpoints.refresh()
    await endpoints.settle()
    try:
        return list(await asyncio.gather(*(_one(endpoints, endpoint) for endpoint in chosen)))
    finally:
        await endpoints.aclose()


async def _one(endpoints: Endpoints, endpoint: Endpoint) -> Findings:
    found = Findings(endpoint.name)
    models = endpoints.models(endpoint)
    found.cells["models"] = str(len(models)) if endpoint.name in endpoints.listed else "no list"
    if endpoint.name in endpoints.refresh_errors:
        found.notes.append(endpoints.refresh_errors[endpoint.name])
    if not models:
        found.failed = True
        found.cells["reachable"] = "no"
        found.notes.append("no model is known; set default_model")
        return found
    choice = ModelChoice(endpoint, endpoint.default_model or models[0].id)
    found.cells["model"] = choice.model
    window = endpoints.info(choice).context_window
    found.cells["context"] = f"{window:,}" if window else "unknown"
    try:
        await _stream(endpoints, choice, found)
        await _tools(endpoints, choice, found)
    except ProviderError as error:
        found.failed = True
        found.notes.append(str(error))
        found.cells.setdefault("reachable", "no" if isinstance(error, UnreachableError) else "yes")
        if isinstance(error, AuthFailedError):
            found.cells["key"] = "rejected"
    provider = endpoints.provider(endpoint)
    if isinstance(provider, HttpProvider):
        learned = provider.quirks(choice.model).changed()
        found.notes += [f"learned: {name} = {value}" for name, value in learned.items()]
    return found


async def _stream(endpoints: Endpoints, choice: ModelChoice, found: Findings) -> None:
    began = time.monotonic()
    events = await _ask(endpoints, choice, "Count from 1 to 5 in words.")
    took_s = time.monotonic() - began
    found.cells |= {"reachable": "yes", "key": "accepted" if choice.endpoint.api_key else "none"}
    num_pieces = sum(isinstance(event, TextDelta) for event in events)
    found.cells["streams"] = (
        f"yes, {took_s:.1f} s" if num_pieces > 1 else "in one piece" if num_pieces else "no text"
    )
    found.cells["reasoning"] = "yes" if any(isinstance(e, ReasoningDelta) for e in events) else "not seen"
    found.cells["usage"] = "yes" if any(isinstance(event, Usage) for event in events) else "no"


async def _tools(endpoints: Endpoints, choice: ModelChoice, found: Findings) -> None:
    events = await _ask(endpoints, choice, "Call the tool report with value 7.", PROBE)
    arguments = "".join(event.delta for event in events if isinstance(event, ToolCallArgsDelta))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    if any(isinstance(event, ToolCallStart) and event.name == PROBE.name for event in events):
        found.cells["tools"] = "yes" if is_complete(arguments) else "broken arguments"
        return
    provider = endpoints.provider(choice.endpoint)
    leaked = "<tool_call>" in text or "[TOOL_CALLS]" in text
    if leaked and isinstance(provider, HttpProvider):
        provider.remember(choice.model, replace(provider.quirks(choice.model), text_tools=True))
    found.cells["tools"] = "as text" if leaked else "not called"


async def _ask(
    endpoints: Endpoints, choice: ModelChoice, text: str, *tools: ToolSpec
) -> list[CompletionEvent]:
    messages = (Message.of(Role.SYSTEM, "Do exactly what is asked, briefly."), Message.of(Role.USER, text))
    request = CompletionRequest(choice.model, messages, tools, max_tokens=MAX_TOKENS)
    provider = endpoints.provider(choice.endpoint)
    async with aclosing(provider.complete(request, CancelToken())) as events:
        return [event async for event in events]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of plain text, each as wide as its widest cell."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )

"""`helexa-acp doctor`: what this machine has, what each endpoint can do, and the quirks learned by asking it.

Sends two short completions to each endpoint's default model, or to the first one that it lists. The exit
status is 1 if an endpoint fails.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from helexa_acp.agent.sessions import make_home
from helexa_acp.cancellation import CancelToken
from helexa_acp.config import Config, load_config
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
from helexa_acp.tools.lsp.servers import find_server
from helexa_acp.tools.sandbox import NONE_WORKS, find_sandbox

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
    """An endpoint's row of the table and the notes below it."""

    endpoint: str
    cells: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: bool = False


def main(argv: list[str]) -> int:
    config = load_config()
    sys.stdout.write(f"configuration: {config.source}\n{_tools_here(config)}")
    for warning in config.warnings:
        sys.stdout.write(f"warning: {warning}\n")
    unknown = set(argv) - {endpoint.name for endpoint in config.endpoints}
    if unknown:
        sys.stderr.write(f"helexa-acp doctor: no usable endpoint is named {', '.join(sorted(unknown))}\n")
        return 2
    chosen = [endpoint for endpoint in config.endpoints if not argv or endpoint.name in argv]
    endpoints = make_home(config).endpoints
    results = asyncio.run(_examine_all(endpoints, chosen))
    rows = [[f.endpoint, *(f.cells.get(header, "-") for header in HEADERS[1:])] for f in results]
    sys.stdout.write("\n" + _table(HEADERS, rows))
    for findings in results:
        for note in findings.notes:
            sys.stdout.write(f"{findings.endpoint}: {note}\n")
    failed = not results or any(findings.failed for findings in results)
    return 1 if failed or config.warnings else 0


def _tools_here(config: Config) -> str:
    """Return which sandbox works here, and which language servers are found from this directory."""
    sandbox = find_sandbox(config.extensions.sandbox.use)
    diagnostics = config.extensions.diagnostics
    servers = diagnostics.servers if diagnostics else ()
    found = [server.name for server in servers if find_server(server, [Path.cwd()], os.environ.get("PATH"))]
    return (
        f"sandbox of commands: {sandbox.name if sandbox else f'none, {NONE_WORKS}'}\n"
        f"language servers: {', '.join(found) or 'none found'}\n"
    )


async def _examine_all(endpoints: Endpoints, chosen: list[Endpoint]) -> list[Findings]:
    endpoints.refresh()
    await endpoints.settle()
    try:
        return list(await asyncio.gather(*(_examine(endpoints, endpoint) for endpoint in chosen)))
    finally:
        await endpoints.aclose()


async def _examine(endpoints: Endpoints, endpoint: Endpoint) -> Findings:
    findings = Findings(endpoint.name)
    models = endpoints.models(endpoint)
    findings.cells["models"] = str(len(models)) if endpoint.name in endpoints.listed else "no list"
    if endpoint.name in endpoints.refresh_errors:
        findings.notes.append(endpoints.refresh_errors[endpoint.name])
    if not models:
        findings.failed = True
        findings.cells["reachable"] = "no"
        findings.notes.append("no model is known; set default_model")
        return findings
    choice = ModelChoice(endpoint, endpoint.default_model or models[0].id)
    findings.cells["model"] = choice.model
    window = endpoints.info(choice).context_window
    findings.cells["context"] = f"{window:,}" if window else "unknown"
    try:
        await _test_streaming(endpoints, choice, findings)
        await _test_tools(endpoints, choice, findings)
    except ProviderError as error:
        findings.failed = True
        findings.notes.append(str(error))
        findings.cells.setdefault("reachable", "no" if isinstance(error, UnreachableError) else "yes")
        if isinstance(error, AuthFailedError):
            findings.cells["key"] = "rejected"
    provider = endpoints.provider(endpoint)
    if isinstance(provider, HttpProvider):
        learned = provider.quirks(choice.model).changed()
        findings.notes += [f"learned: {name} = {value}" for name, value in learned.items()]
    return findings


async def _test_streaming(endpoints: Endpoints, choice: ModelChoice, findings: Findings) -> None:
    began = time.monotonic()
    events = await _complete(endpoints, choice, "Count from 1 to 5 in words.")
    took_s = time.monotonic() - began
    findings.cells |= {"reachable": "yes", "key": "accepted" if choice.endpoint.api_key else "none"}
    num_pieces = sum(isinstance(event, TextDelta) for event in events)
    if num_pieces > 1:
        findings.cells["streams"] = f"yes, {took_s:.1f} s"
    else:
        findings.cells["streams"] = "in one piece" if num_pieces else "no text"
    findings.cells["reasoning"] = "yes" if any(isinstance(e, ReasoningDelta) for e in events) else "not seen"
    findings.cells["usage"] = "yes" if any(isinstance(event, Usage) for event in events) else "no"


async def _test_tools(endpoints: Endpoints, choice: ModelChoice, findings: Findings) -> None:
    events = await _complete(endpoints, choice, "Call the tool report with value 7.", PROBE)
    arguments = "".join(event.delta for event in events if isinstance(event, ToolCallArgsDelta))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    if any(isinstance(event, ToolCallStart) and event.name == PROBE.name for event in events):
        findings.cells["tools"] = "yes" if is_complete(arguments) else "broken arguments"
        return
    provider = endpoints.provider(choice.endpoint)
    leaked = "<tool_call>" in text or "[TOOL_CALLS]" in text
    if leaked and isinstance(provider, HttpProvider):
        provider.remember(choice.model, replace(provider.quirks(choice.model), text_tools=True))
    findings.cells["tools"] = "as text" if leaked else "not called"


async def _complete(
    endpoints: Endpoints, choice: ModelChoice, text: str, *tools: ToolSpec
) -> list[CompletionEvent]:
    messages = (Message.of(Role.SYSTEM, "Do exactly what is asked, briefly."), Message.of(Role.USER, text))
    request = CompletionRequest(choice.model, messages, tools, max_tokens=MAX_TOKENS)
    provider = endpoints.provider(choice.endpoint)
    async with aclosing(provider.complete(request, CancelToken())) as events:
        return [event async for event in events]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in plain text, each column as wide as its widest cell."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )

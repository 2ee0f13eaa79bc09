"""Execution of shell commands, in a terminal of the client if it has terminals, else as a child process."""

from __future__ import annotations

import asyncio
import logging
import shutil
from typing import Any

from helexa_acp.cancellation import Cancelled
from helexa_acp.rpc.framing import RpcError
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.processes import ProcessResult
from helexa_acp.tools.tool import ToolContext
from helexa_acp.v1.client import Client
from helexa_acp.v1.updates import terminal_content

log = logging.getLogger(__name__)

OUTPUT_LIMIT_BYTES = 64 * 1024
CLEANUP_TIMEOUT_S = 5.0


def shell_argv(command: str) -> list[str]:
    return [shutil.which("bash") or "/bin/sh", "-c", command]


async def run_command(argv: list[str], cwd: str, timeout_s: float, ctx: ToolContext) -> ProcessResult:
    """Run a command until it ends, times out or is cancelled. Raises ToolError."""
    try:
        if ctx.client.has_terminal:
            return await _in_client([*_without(ctx), *argv], cwd, timeout_s, ctx)
        return await ctx.processes.run(
            argv, cwd, timeout_s=timeout_s, limit_bytes=OUTPUT_LIMIT_BYTES, cancel=ctx.cancel
        )
    except (RpcError, OSError) as error:
        raise ToolError(f"the command could not be run: {error}") from error


def _without(ctx: ToolContext) -> list[str]:
    """Return the words that take from the client's environment what commands do not get."""
    withheld = ctx.processes.environment.withheld()
    return ["env", *(word for name in withheld for word in ("-u", name))] if withheld else []


async def _in_client(argv: list[str], cwd: str, timeout_s: float, ctx: ToolContext) -> ProcessResult:
    client = ctx.client
    session_id = ctx.session_id
    terminal_id = await _create(argv, cwd, ctx)
    timed_out = False
    cancelled = False
    status: dict[str, Any] = {}
    output: dict[str, Any] = {}
    try:
        ctx.show(content=[terminal_content(terminal_id)])
        try:
            async with asyncio.timeout(timeout_s):
                status = await ctx.cancel.race(client.terminal("wait_for_exit", session_id, terminal_id))
        except TimeoutError:
            timed_out = True
        except Cancelled:
            cancelled = True
        if timed_out or cancelled:
            await _try("kill", client, session_id, terminal_id)
        output = await _try("output", client, session_id, terminal_id)
    finally:
        await _try("release", client, session_id, terminal_id)
    status = status or output.get("exitStatus") or {}
    code = status.get("exitCode")
    name = status.get("signal")
    return ProcessResult(
        str(output.get("output", "")),
        exit_code=code if isinstance(code, int) else None,
        signal=name if isinstance(name, str) else None,
        truncated=output.get("truncated") is True,
        timed_out=timed_out,
        cancelled=cancelled,
    )


async def _create(argv: list[str], cwd: str, ctx: ToolContext) -> str:
    """Return the id of a new terminal. Raises Cancelled, after releasing a terminal that was created."""
    client = ctx.client
    session_id = ctx.session_id
    creating = asyncio.create_task(client.create_terminal(session_id, argv, cwd, OUTPUT_LIMIT_BYTES))
    try:
        return await ctx.cancel.race(asyncio.shield(creating))
    except Cancelled:
        await asyncio.wait({creating}, timeout=CLEANUP_TIMEOUT_S)
        if creating.done() and creating.exception() is None:
            await _try("release", client, session_id, creating.result())
        raise
    finally:
        creating.cancel()


async def _try(verb: str, client: Client, session_id: str, terminal_id: str) -> dict[str, Any]:
    """Return a step's result, or nothing if it fails: the steps after it must be taken all the same."""
    try:
        async with asyncio.timeout(CLEANUP_TIMEOUT_S):
            return await client.terminal(verb, session_id, terminal_id)
    except (RpcError, TimeoutError) as error:
        log.warning("terminal/%s failed: %r", verb, error)
        return {}

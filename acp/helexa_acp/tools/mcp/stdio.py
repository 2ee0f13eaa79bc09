"""MCP over the standard input and output of a child process, which ends at once with all of its group.

What the child writes to its standard error goes to the log, and its last line explains a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

log = logging.getLogger(__name__)  # `cli.app` keeps it out of standard error

MAX_LINE_BYTES = 32 * 1024 * 1024
MAX_LOGGED_CHARS = 500
STEP_S = 0.12  # to end: after the input is closed, after SIGTERM, after SIGKILL
POLL_S = 0.01


@dataclass(slots=True)
class StdioServer:
    """A program to run, and the last words that it wrote to its standard error."""

    name: str
    command: str
    args: list[str]
    env: dict[str, str]  # the whole environment
    cwd: str
    last_words: str = field(default="", init=False)

    @asynccontextmanager
    async def transport(self) -> AsyncGenerator[TransportStreams, None]:
        """Run the program, and yield the streams of its messages. Raises OSError, ValueError."""
        process = await asyncio.create_subprocess_exec(
            self.command,
            *self.args,
            env=self.env,
            cwd=self.cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        incoming_send, incoming = anyio.create_memory_object_stream[Any](0)
        outgoing, outgoing_receive = anyio.create_memory_object_stream[Any](0)
        pumps = [
            asyncio.create_task(_receive(process, incoming_send)),
            asyncio.create_task(_send(process, outgoing_receive, incoming_send)),
            asyncio.create_task(self._listen(process)),
        ]
        try:
            yield incoming, outgoing
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                for stream in (incoming_send, incoming, outgoing, outgoing_receive):
                    await stream.aclose()
                _close(process)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        rest = b""
        while chunk := await process.stderr.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-MAX_LOGGED_CHARS:]
            for line in (line.decode("utf-8", "replace").strip()[:MAX_LOGGED_CHARS] for line in lines):
                if line:
                    self.last_words = line
                    log.info("%s: %s", self.name, line)


async def _receive(process: asyncio.subprocess.Process, incoming: Any) -> None:
    from mcp.shared.message import SessionMessage  # noqa: PLC0415 - `mcp` takes most of a second
    from mcp_types import jsonrpc_message_adapter  # noqa: PLC0415

    assert process.stdout is not None  # noqa: S101 - it is a pipe
    with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, ValueError, OSError):
        async with incoming:
            while line := await process.stdout.readline():
                try:
                    message = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                except ValueError as error:
                    await incoming.send(error)
                else:
                    await incoming.send(message)


async def _send(process: asyncio.subprocess.Process, outgoing: Any, incoming: Any) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    try:
        async for message in outgoing:
            body = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            process.stdin.write(body.encode() + b"\n")
            await process.stdin.drain()
    except (OSError, anyio.ClosedResourceError):
        await incoming.aclose()  # so that no request waits for an answer


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close the program's input, then signal its group, until nothing of it is left."""
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    process.stdin.close()
    for number in (0, signal.SIGTERM, signal.SIGKILL):
        if not _signal_group(process, number) or await _gone(process):
            return
    if process.returncode is None:  # else it is a child that nobody has waited for
        log.warning("process %d is still alive after SIGKILL", process.pid)


async def _gone(process: asyncio.subprocess.Process) -> bool:
    for _ in range(int(STEP_S / POLL_S)):
        if process.returncode is not None and not _signal_group(process, 0):
            return True
        await asyncio.sleep(POLL_S)
    return False


def _signal_group(process: asyncio.subprocess.Process, number: int) -> bool:
    """Send a signal, and return whether the group exists. Its id is the leader's, which may be gone."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # of a zombie, on some systems
        return process.returncode is None
    return True


def _close(process: asyncio.subprocess.Process) -> None:
    """Close the pipes, which a process that has left the group may hold open."""
    transport = getattr(process, "_transport", None)  # nothing public closes it
    if transport is not None:
        with contextlib.suppress(PermissionError):
            transport.close()

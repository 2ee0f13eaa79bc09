"""MCP over the standard input and output of a child process, which ends at once with all of its group.

What the child writes to its standard error goes to the log, and its last line explains a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from helexa_acp.tools.process_group import close_pipes, end_group

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

log = logging.getLogger(__name__)  # `cli.app` keeps it out of standard error

MAX_LINE_BYTES = 32 * 1024 * 1024
MAX_LOGGED_CHARS = 500


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
                await end_group(process)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                for stream in (incoming_send, incoming, outgoing, outgoing_receive):
                    await stream.aclose()
                close_pipes(process)

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

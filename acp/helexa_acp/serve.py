"""The agent on standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

from helexa_acp.agent.server import Agent
from helexa_acp.config import Config
from helexa_acp.rpc.framing import LineSplitter, decode
from helexa_acp.rpc.stdio import FdReader, FdWriter

log = logging.getLogger(__name__)


async def serve(config: Config, read_fd: int, write_fd: int) -> None:
    """Serve one client until it disconnects or a signal arrives, then end every child process."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    writer = FdWriter(write_fd, stop.set)
    agent = Agent(config, writer)
    lines = LineSplitter()

    def receive(complete: list[bytes | None]) -> None:
        for line in complete:
            message = decode(line)
            if message is not None:
                agent.connection.receive(message)

    def on_end() -> None:
        receive(lines.close())
        # Handlers of the last messages run up to their first wait before the connection closes.
        loop.call_soon(agent.connection.peer_gone)
        loop.call_soon(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with contextlib.suppress(NotImplementedError, ValueError):
            loop.add_signal_handler(number, stop.set)
    FdReader(read_fd, lambda chunk: receive(lines.feed(chunk)), on_end)
    await stop.wait()
    await agent.aclose()
    await writer.close()

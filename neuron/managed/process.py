"""The process of a server, under its guard."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from neuron.discovery import private_bytes
from neuron.managed.command import Launch
from neuron.wire import MIB

# Isolated from the environment, which is its program's.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from neuron.managed.guard import run; run()"
GUARD = (sys.executable, "-I", "-c", _BOOT, str(Path(__file__).parents[2]))
GUARD_GRACE_S = 5.0  # for the guard, beyond what it grants its program
READ_BYTES = 1 << 16


class ServerProcess:
    """One run of a server's program. It ends with `end`, by itself, or with the daemon."""

    def __init__(
        self, process: asyncio.subprocess.Process, output: asyncio.StreamReader, grace_s: float
    ) -> None:
        self._process = process
        self._output = output
        self._grace_s = grace_s
        self._family: list[psutil.Process] = []  # as last seen

    @classmethod
    async def start(cls, launch: Launch, grace_s: float) -> ServerProcess:
        """Raises `OSError` when the guard cannot be started."""
        # A pipe of our own: asyncio's would have `wait` wait for whoever else holds its other end.
        ours, theirs = os.pipe()
        try:
            output = await _reader(ours)
            process = await asyncio.create_subprocess_exec(
                *GUARD,
                str(grace_s),
                *launch.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=theirs,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # a group of its own; Ctrl-C is for the daemon
                env=dict(launch.environment),
            )
        finally:
            os.close(theirs)
        return cls(process, output, grace_s)

    @property
    def pid(self) -> int:
        """Of the guard, which leads the process group."""
        return self._process.pid

    async def read(self) -> bytes:
        """What the program wrote; empty once it and all that share its output have ended."""
        return await self._output.read(READ_BYTES)

    @property
    def pids(self) -> list[int]:
        """Of the program and its descendants."""
        with suppress(psutil.Error):
            self._family = psutil.Process(self.pid).children(recursive=True)
        return [process.pid for process in self._family]

    @property
    def host_mb(self) -> int:
        """The host's memory that they hold, MiB, without pages of files."""
        return sum(private_bytes(pid) for pid in self.pids) // MIB

    async def wait(self) -> str:
        """Return how the program ended."""
        code = await self._process.wait()
        if code < 0:
            self._end_orphans()
            return "its guard was killed"
        with suppress(ValueError):
            return f"killed by {signal.Signals(code - 128).name}"
        return f"exit code {code}"

    def _end_orphans(self) -> None:
        """Kill what a killed guard has left: its group, and descendants with sessions of their own."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for process in self._family:
            with suppress(psutil.Error):
                process.kill()

    async def end(self) -> None:
        """End the program and all its descendants; returns when they are gone."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            async with asyncio.timeout(self._grace_s + GUARD_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.wait()


async def _reader(pipe: int) -> asyncio.StreamReader:
    """A reader of a pipe's end, which is closed when nobody has the other end any more."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(pipe, "rb", 0))
    return reader

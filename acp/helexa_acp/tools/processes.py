"""Child processes. Each leads its own process group, and none outlives the agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.command_environment import CommandEnvironment
from helexa_acp.tools.truncation import HeadAndTail

TERM_GRACE_S = 2.0
DRAIN_GRACE_S = 1.0  # for output of grandchildren, which keep the pipe open
READ_BYTES = 65536
EVERYTHING = CommandEnvironment()


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a program ended, with its standard output and error in one."""

    output: str
    exit_code: int | None  # None with `signal`, and while it runs
    signal: str | None = None
    truncated: bool = False
    timed_out: bool = False
    cancelled: bool = False


class RunningProcess:
    """A program that was started, and the output that was not taken yet, bounded to its beginning and end."""

    def __init__(self, process: asyncio.subprocess.Process, read_fd: int, limit_bytes: int) -> None:
        self._process = process
        self._limit_bytes = limit_bytes
        self._output = HeadAndTail(limit_bytes)
        self._reading = asyncio.create_task(self._collect(read_fd))

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    async def wait(self) -> None:
        """Wait for the program itself, not for what it has left running."""
        await self._process.wait()

    async def end(self) -> None:
        """End the program and what is left of its group, and wait for the last of its output."""
        await _end(self._process)
        await asyncio.wait({self._reading}, timeout=DRAIN_GRACE_S)
        self._reading.cancel()
        await asyncio.wait({self._reading})

    def take(self, *, timed_out: bool = False, cancelled: bool = False) -> ProcessResult:
        """Return how the program has ended, if it has, and its output since the last call."""
        output, self._output = self._output, HeadAndTail(self._limit_bytes)
        code = self._process.returncode
        name = signal.Signals(-code).name if code is not None and code < 0 else None
        return ProcessResult(
            output.text(), None if name else code, name, output.truncated, timed_out, cancelled
        )

    async def _collect(self, fd: int) -> None:
        """Read until no process can write to the pipe any more."""
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", buffering=0)
        )
        try:
            while chunk := await stream.read(READ_BYTES):
                self._output.add(chunk)
        finally:
            transport.close()


class ChildProcesses:
    """Runs programs, and can end all that are running."""

    def __init__(self, environment: CommandEnvironment = EVERYTHING) -> None:
        self.environment = environment
        self._running: set[RunningProcess] = set()

    async def start(
        self, argv: Sequence[str], cwd: str, limit_bytes: int, stdin: bytes = b""
    ) -> RunningProcess:
        """Return a program that runs until it or the session ends. Raises OSError."""
        # With asyncio's own pipe, `wait` would also wait for every process that inherited it.
        read_fd, write_fd = os.pipe()
        source = _file_of(stdin) if stdin else None
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=cwd,
                env=self.environment.variables(),
                stdin=asyncio.subprocess.DEVNULL if source is None else source,
                stdout=write_fd,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
            if source is not None:
                source.close()
        running = RunningProcess(process, read_fd, limit_bytes)
        self._running.add(running)
        return running

    async def run(
        self,
        argv: Sequence[str],
        cwd: str,
        *,
        timeout_s: float,
        limit_bytes: int,
        cancel: CancelToken,
        stdin: bytes = b"",
    ) -> ProcessResult:
        """Run a program until it ends, times out or is cancelled. Raises OSError if it cannot be started."""
        running = await self.start(argv, cwd, limit_bytes, stdin)
        timed_out = False
        cancelled = False
        try:
            async with asyncio.timeout(timeout_s):
                await cancel.race(running.wait())
        except TimeoutError:
            timed_out = True
        except Cancelled:
            cancelled = True
        finally:
            await self.end(running)
        return running.take(timed_out=timed_out, cancelled=cancelled)

    async def end(self, running: RunningProcess) -> None:
        """End a program, with all that it has started."""
        await running.end()
        self._running.discard(running)

    async def kill_all(self) -> None:
        await asyncio.gather(*(self.end(running) for running in list(self._running)))


def _file_of(data: bytes) -> IO[bytes]:
    """Return a file to read the data from: unlike a pipe, it takes all of it at once."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(data)
    file.seek(0)
    return file


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process and what is left of its group."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TERM_GRACE_S):
                await process.wait()
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)

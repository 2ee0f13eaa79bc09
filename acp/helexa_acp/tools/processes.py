"""Child processes. Each leads its own process group, and none outlives the agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.tools.truncation import HeadAndTail

TERM_GRACE_S = 2.0
DRAIN_GRACE_S = 1.0  # for output of grandchildren, which keep the pipe open
READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a program ended, with its standard output and error in one."""

    output: str
    exit_code: int | None
    signal: str | None = None
    truncated: bool = False
    timed_out: bool = False
    cancelled: bool = False


class ChildProcesses:
    """Runs programs, and can end all that are running."""

    def __init__(self) -> None:
        self._running: set[asyncio.subprocess.Process] = set()

    async def run(
        self, argv: Sequence[str], cwd: str, *, timeout_s: float, limit_bytes: int, cancel: CancelToken
    ) -> ProcessResult:
        """Run a program until it ends, times out or is cancelled. Raises OSError if it cannot be started."""
        # With asyncio's own pipe, `wait` would also wait for every process that inherited it.
        read_fd, write_fd = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_fd,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        self._running.add(process)
        output = HeadAndTail(limit_bytes)
        reading = asyncio.create_task(_collect(read_fd, output))
        timed_out = False
        cancelled = False
        try:
            async with asyncio.timeout(timeout_s):
                await cancel.race(process.wait())
        except TimeoutError:
            timed_out = True
        except Cancelled:
            cancelled = True
        finally:
            await _end(process)
            self._running.discard(process)
            await asyncio.wait({reading}, timeout=DRAIN_GRACE_S)
            reading.cancel()
            await asyncio.wait({reading})
        code = process.returncode
        name = signal.Signals(-code).name if code is not None and code < 0 else None
        return ProcessResult(
            output.text(), None if name else code, name, output.truncated, timed_out, cancelled
        )

    async def kill_all(self) -> None:
        await asyncio.gather(*(_end(process) for process in list(self._running)))


async def _collect(fd: int, output: HeadAndTail) -> None:
    """Read until no process can write to the pipe any more."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        while chunk := await stream.read(READ_BYTES):
            output.add(chunk)
    finally:
        transport.close()


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

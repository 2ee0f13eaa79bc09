"""Runs the processes of one machine: starts them in order, restarts those that die, stops them in reverse.

A process that dies is restarted with back-off, and the supervisor prints why. Every process leads a process
group of its own, so that a terminal's Ctrl-C reaches only the supervisor. On Linux the kernel kills the
processes when the supervisor is killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

BACKOFF_S = (0.2, 1.0, 2.0, 5.0, 10.0)  # the last one repeats
STEADY_S = 30.0  # a process that lived this long gets the first back-off again
LOG_BYTES = 16 << 20  # of a log, and as many of what it was before
TRIM_S = 10.0  # between two looks at how long the logs are
PR_SET_PDEATHSIG = 1
STATE_FILE = "processes.json"  # in the state directory

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Program:
    """One process to keep running."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    fds: Sequence[int] = ()
    ready: Callable[[], Awaitable[bool]] | None = None
    ready_s: float = 60.0
    stop_s: float = 10.0


class StartError(Exception):
    """A program did not start. The message names it and quotes the end of its log."""


class _Process:
    """A program with its current process."""

    def __init__(self, program: Program, log_path: Path | None) -> None:
        self.program = program
        self.log_path = log_path
        self.restarts = 0
        self.failures = 0  # deaths in a row, each soon after its start
        self.reason = ""
        self.process: asyncio.subprocess.Process | None = None
        self.started_at = 0.0

    async def start(self) -> None:
        parent = os.getpid()
        log = self.log_path.open("ab") if self.log_path else None
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.program.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.program.env},
                pass_fds=self.program.fds,
                start_new_session=True,
                preexec_fn=lambda: _die_with(parent),
            )
        finally:
            if log:
                log.close()
        self.started_at = time.monotonic()

    def pause_s(self) -> float:
        """The seconds to wait before the next start, after a death."""
        was_steady = time.monotonic() - self.started_at > STEADY_S
        self.failures = 1 if was_steady else self.failures + 1
        return BACKOFF_S[min(self.failures, len(BACKOFF_S)) - 1]

    async def stop(self) -> None:
        process = self.process
        if process is None or process.returncode is not None:
            return
        self.signal_group(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.program.stop_s):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            self.signal_group(signal.SIGKILL)  # also children that the process left behind
            await process.wait()

    def signal_group(self, number: signal.Signals) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def trim_log(self) -> None:
        """Move a long log aside. The process appends, so truncating the file is safe."""
        if self.log_path and self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES:
            with suppress(OSError):  # a full disk: what follows makes room
                shutil.copyfile(self.log_path, self.log_path.with_suffix(".log.1"))
            os.truncate(self.log_path, 0)

    def log_tail(self, lines: int = 15) -> str:
        if self.log_path is None:
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the supervisor dies; runs between fork and exec."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the supervisor died before the line above
            os._exit(1)


class Supervisor:
    """Owns the processes from `start` to `stop`.

    `tell` gets lines for people. `state_path` always holds every process's name, pid and restarts, for
    `cortex status`. With `log_dir` each process logs to a file there, otherwise to our stderr.
    """

    def __init__(self, *, tell: Callable[[str], None], state_path: Path, log_dir: Path | None = None) -> None:
        self._tell = tell
        self._state_path = state_path
        self._log_dir = log_dir
        self._groups: list[list[_Process]] = []
        self._keepers = [asyncio.create_task(self._trim_logs(), name="trim-logs")] if log_dir else []
        self.facts: dict[str, str] = {}  # written beside the processes: URLs

    async def start(self, *programs: Program) -> None:
        """Start programs together, and return when all are ready. Raises `StartError`."""
        group: list[_Process] = []
        self._groups.append(group)
        for program in programs:
            log_path = self._log_dir / f"{program.name}.log" if self._log_dir else None
            process = _Process(program, log_path)
            process.trim_log()
            await process.start()
            group.append(process)
        self._write_state()
        for process in group:
            await self._await_ready(process)
            name = f"keep-{process.program.name}"
            self._keepers.append(asyncio.create_task(self._keep(process), name=name))

    async def _await_ready(self, process: _Process) -> None:
        """Wait until ready. A process that exits by itself fails the start; a killed one is restarted."""
        program = process.program
        deadline = time.monotonic() + program.ready_s
        while program.ready and not await program.ready():
            assert process.process is not None
            is_late = time.monotonic() > deadline
            if (code := process.process.returncode) is not None:
                if code >= 0 or is_late:
                    raise StartError(f"{program.name} {_reason(code)} while starting.\n{process.log_tail()}")
                await self._start_again(process, code)
            elif is_late:
                late = f"was not ready within {program.ready_s:g} s"
                why = f"{process.reason} while starting" if process.reason else late
                raise StartError(f"{program.name} {why}.\n{process.log_tail()}")
            await asyncio.sleep(0.1)

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(TRIM_S)
            for group in self._groups:
                for process in group:
                    await asyncio.to_thread(process.trim_log)

    async def _keep(self, process: _Process) -> None:
        while True:
            assert process.process is not None
            await self._start_again(process, await process.process.wait())

    async def _start_again(self, process: _Process, code: int) -> None:
        process.reason = _reason(code)
        pause = process.pause_s()
        self._tell(f"{process.program.name} {process.reason}; starting it again in {pause:g} s")
        process.signal_group(signal.SIGKILL)  # children that it left behind
        await asyncio.sleep(pause)
        process.trim_log()
        await process.start()
        process.restarts += 1
        self._write_state()

    def _write_state(self) -> None:
        processes = [
            {
                "name": item.program.name,
                "pid": item.process.pid if item.process else None,
                "restarts": item.restarts,
                "reason": item.reason,
            }
            for group in self._groups
            for item in group
        ]
        state = {"supervisor": os.getpid(), **self.facts, "processes": processes}
        partial = self._state_path.with_suffix(".new")
        partial.write_text(json.dumps(state, indent=1))
        partial.replace(self._state_path)

    async def stop(self) -> None:
        """Stop every process, the last group first."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for group in reversed(self._groups):
            await asyncio.gather(*(process.stop() for process in group))
        self._state_path.unlink(missing_ok=True)


def _reason(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    return f"was killed by {signal.Signals(-returncode).name}"

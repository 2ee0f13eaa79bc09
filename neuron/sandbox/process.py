"""One process of the sandbox, as the daemon sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence

from neuron.sandbox.messages import (
    HEADER_BYTES,
    OutOfMemory,
    Raised,
    Returned,
    SandboxCall,
    decode_answer,
    encode,
)

COMMAND = (sys.executable, "-m", "neuron.sandbox")
# Each thread's arena would reserve 64 MiB of the address space that a call may take.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}


class ProcessEndedError(Exception):
    """The process ended during a call, or is not fit for another; the message says how."""


class CallLimitError(Exception):
    """A call took more than it may; the message says of what."""


class SandboxProcess:
    """A process that runs one call at a time. `end` must be called, also after an error."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.num_calls = 0

    @classmethod
    async def start(cls, command: Sequence[str] = COMMAND) -> SandboxProcess:
        """Start a process. Raises OSError."""
        environment = os.environ | ENVIRONMENT
        return cls(
            await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, env=environment, start_new_session=True
            )
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    async def call(self, call: SandboxCall) -> Returned | Raised:
        """The answer of `call`. Raises `CallLimitError`, `ProcessEndedError` and RecursionError."""
        assert self._process.stdin
        assert self._process.stdout
        self.num_calls += 1
        request = encode(call)
        try:
            self._process.stdin.write(request)
            header = await self._process.stdout.readexactly(HEADER_BYTES)
            payload = await self._process.stdout.readexactly(int.from_bytes(header, "big"))
            answer = decode_answer(payload)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise await self._ended(call) from error
        except pickle.UnpicklingError as error:
            raise ProcessEndedError(f"it spoke nonsense: {error}") from error
        if isinstance(answer, OutOfMemory):
            raise CallLimitError(_memory(call))
        return answer

    async def _ended(self, call: SandboxCall) -> ProcessEndedError | CallLimitError:
        # Not killed, though that would be sure: `kill` polls first, which takes the status away from asyncio.
        match await self._process.wait():
            case code if code == -signal.SIGXCPU:
                return CallLimitError(f"more than {call.cpu_s} s of CPU time")
            case code if code == -signal.SIGABRT:
                return CallLimitError(_memory(call))
            case code if code < 0:
                return ProcessEndedError(f"killed by {signal.Signals(-code).name}")
            case code:
                return ProcessEndedError(f"exit code {code}")

    async def end(self) -> None:
        """Kill the process, whatever it does, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdin:
            self._process.stdin.close()
        await self._process.wait()


def _memory(call: SandboxCall) -> str:
    return f"more than {call.memory_mb} MiB of memory"

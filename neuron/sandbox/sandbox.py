"""Runs calls in processes that can be killed: a few at a time, principals in turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from neuron.config import SandboxSettings
from neuron.fair_queue import FairQueue
from neuron.sandbox.messages import Raised, SandboxCall
from neuron.sandbox.process import COMMAND, ProcessEndedError, SandboxProcess
from neuron.wire import ApiError

log = logging.getLogger("neuron.sandbox")

ATTEMPTS = 2  # of a call whose process is killed by something else
MAX_CALLS = 1000  # of one process: native libraries do not give all their memory back
RETRY_AFTER_S = 2

P = ParamSpec("P")
T = TypeVar("T")


class CallError(Exception):
    """The function of a call raised something; the message says what."""


class Sandbox:
    """Processes that run calls. They are started when calls come, and end with `close`.

    It has no task of its own: a call runs in the task that makes it. Cancelling that removes a call from the
    queue, and kills the process of one that runs.
    """

    def __init__(
        self, settings: SandboxSettings, command: Sequence[str] = COMMAND, *, max_calls: int = MAX_CALLS
    ) -> None:
        self._settings = settings
        self._command = command
        self._max_calls = max_calls
        self._idle: list[SandboxProcess] = []
        self._num_running = 0  # calls that have their turn
        self._turns: FairQueue[asyncio.Future[None]] = FairQueue(settings.max_waiting)
        self._is_closed = False

    async def run(self, principal: str, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """What `function`, which must be found in a module, returns.

        Raises `CallLimitError`, `CallError`, and `ApiError` 503: when too many calls wait, and when its
        processes are killed by something else or give no answer in time. RecursionError for arguments that
        are nested too deeply.
        """
        call = SandboxCall(function, args, options, self._settings.cpu_s, self._settings.memory_mb)
        await self._wait_for_turn(principal)
        try:
            return cast("T", await self._run(call))
        finally:
            self._end_turn()

    async def close(self) -> None:
        """Refuse calls that wait or come, and end the processes; one that runs a call ends after it."""
        self._is_closed = True
        while len(self._turns):
            self._refuse(self._turns.pop())
        while self._idle:
            await self._idle.pop().end()

    # --- turns ------------------------------------------------------------------------------------------

    async def _wait_for_turn(self, principal: str) -> None:
        if self._is_closed:
            raise _full()
        if self._num_running < self._settings.processes:
            self._num_running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if dropped := self._turns.push(principal, turn):
            self._refuse(dropped)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._turns.discard(principal, turn)
            elif turn.exception() is None:  # it came at the same moment
                self._end_turn()
            raise

    def _refuse(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            turn.set_exception(_full())

    def _end_turn(self) -> None:
        while len(self._turns):
            turn = self._turns.pop()
            if not turn.done():  # its task was not cancelled at this very moment
                turn.set_result(None)
                return
        self._num_running -= 1

    # --- calls ------------------------------------------------------------------------------------------

    async def _run(self, call: SandboxCall) -> Any:
        for _ in range(ATTEMPTS):
            try:
                return await self._run_once(call)
            except (ProcessEndedError, OSError) as error:
                fields = {"function": call.function.__qualname__, "reason": str(error)}
                log.warning("sandbox process lost", extra=fields)
        message = "neuron's sandbox fails; its log has the details."
        raise ApiError(503, "sandbox_failed", message, retry_after_s=RETRY_AFTER_S)

    async def _run_once(self, call: SandboxCall) -> Any:
        process = await self._fit_process()
        is_fit = False
        try:
            async with asyncio.timeout(self._settings.wall_s):
                answer = await process.call(call)
            is_fit = process.num_calls < self._max_calls and not self._is_closed
        except TimeoutError as error:
            message = f"neuron's sandbox gave no answer within {self._settings.wall_s:g} s."
            raise ApiError(503, "sandbox_timeout", message, retry_after_s=RETRY_AFTER_S) from error
        finally:
            if is_fit:
                self._idle.append(process)
            else:
                await process.end()
        if isinstance(answer, Raised):
            raise CallError(f"{call.function.__qualname__}: {answer.text}")
        return answer.value

    async def _fit_process(self) -> SandboxProcess:
        while self._idle:
            process = self._idle.pop()
            if not process.has_ended:
                return process
            await process.end()
        return await SandboxProcess.start(self._command)


def _full() -> ApiError:
    message = "Too many schemas, grammars and files wait to be checked."
    return ApiError(503, "sandbox_full", message, retry_after_s=RETRY_AFTER_S)

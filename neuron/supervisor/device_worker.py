"""Keeps the worker of one device running, and carries requests to it and answers back.

States: starting → ready → restarting → ready …; `failed` once `START_FAILURES` starts in a row did not get as
far as ready, while attempts go on. When the process ends, for whatever reason, everything it had is ended
with an error first, and `WorkerOwner.worker_lost` is told before the next attempt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

import psutil

from neuron import pipe
from neuron.config import RestartSettings
from neuron.generation import Generation
from neuron.supervisor.worker_process import PipeError, WorkerProcess
from neuron.wire import MIB, ApiError, DeviceHealth, DeviceInfo, DeviceState

log = logging.getLogger("neuron.device")

START_FAILURES = 3
STOP_GRACE_S = 5.0
LEAVE_GRACE_S = 1.0  # from closing its pipe to the end of a worker that leaves by itself
RETRY_AFTER_S = 5


Question = pipe.Embed | pipe.Look | pipe.ResetCache | pipe.AskMemory
Answer = pipe.Embedded | pipe.Looked | pipe.Memory | pipe.Refused | pipe.Finished


class WorkerLoadError(Exception):
    """A worker could not load a model: a code of `pipe.LoadFailed`, or worker_lost."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class WorkerOwner(Protocol):
    """Who is told what happens to a worker. The calls must not block."""

    def worker_ready(self, worker: DeviceWorker) -> None: ...

    def worker_lost(self, worker: DeviceWorker) -> None: ...

    def changed(self, *, urgent: bool) -> None:
        """Something that `/events` shows is different; not urgent: only load."""
        ...


class DeviceWorker:
    def __init__(
        self, device: DeviceInfo, command: Sequence[str], *, restart: RestartSettings, owner: WorkerOwner
    ) -> None:
        self.device = device
        self.name = f"{'cuda' if device.kind == 'cuda' else 'cpu'}-dev-{device.index}"
        self._command = [*command, "--device", f"{device.kind}:{device.index}"]
        self._restart = restart
        self._owner = owner
        self._process: WorkerProcess | None = None
        self._ready = asyncio.Event()
        self._generations: dict[int, Generation] = {}
        self._questions: dict[int, tuple[str, asyncio.Future[Any]]] = {}  # with the model
        self._loads: dict[str, asyncio.Future[pipe.Loaded]] = {}
        self._unloads: dict[str, asyncio.Future[None]] = {}
        self._last_sign = 0.0
        self._failed_starts = 0
        self._restarting: asyncio.Future[None] | None = (
            None  # done when the process that was told to go is gone
        )
        self.state: DeviceState = "starting"
        self.reason: str | None = None
        self.pid: int | None = None
        self.restarts = 0
        self.cycles = 0
        self.progress: dict[str, float] = {}
        self.status: pipe.Status | None = None

    # --- life -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a worker alive until cancelled."""
        delay = self._restart.first_delay_s
        while True:
            started = time.monotonic()
            await self._run_once()
            self.restarts += 1
            if self._restarting is not None:
                self._restarting.set_result(None)
                self._restarting, delay = None, self._restart.first_delay_s
                log.info("device worker is restarted", extra={"worker": self.name})
                continue
            if time.monotonic() - started >= self._restart.stable_after_s:
                delay = self._restart.first_delay_s
            log.error(
                "device worker ended, restarting",
                extra={"worker": self.name, "reason": self.reason, "delay_s": delay},
            )
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._restart.max_delay_s)

    async def _run_once(self) -> None:
        reason, is_gone = "", False
        try:
            self._process = await WorkerProcess.start(self._command)
            reason, is_gone = await self._listen(self._process), True
        except OSError as error:
            reason = f"cannot be started: {error}"
        except asyncio.CancelledError:
            reason = "neuron is stopping"
            raise
        finally:  # also when the daemon stops: then a worker that is ready may leave by itself
            if self._process:
                grace_s = LEAVE_GRACE_S if is_gone else STOP_GRACE_S if self._ready.is_set() else 0.0
                how = await self._process.end(grace_s)
                reason = "was restarted" if self._restarting else reason or how
            self._lost(reason)

    async def _listen(self, process: WorkerProcess) -> str:
        """Serve until the worker is gone; why it had to go, empty when it left by itself."""
        self._last_sign = time.monotonic()
        watchdog = asyncio.create_task(self._watch(process), name=f"watch {self.name}")
        try:
            while (messages := await process.receive()) is not None:
                self._last_sign = time.monotonic()
                for message in messages:
                    self._handle(message)
        except PipeError as error:
            return f"spoke nonsense: {error}"
        finally:
            watchdog.cancel()
        return watchdog.result() if watchdog.done() and not watchdog.cancelled() else ""

    async def _watch(self, process: WorkerProcess) -> str:
        while True:
            silence = time.monotonic() - self._last_sign
            if silence >= self._patience_s:
                break
            await asyncio.sleep(min(1.0, self._patience_s - silence))
        process.kill()
        return f"gave no sign of life for {silence:.0f} s"

    @property
    def _patience_s(self) -> float:
        if self.state != "ready":
            return self._restart.start_timeout_s
        return self._restart.load_silence_s if self._loads else self._restart.wedged_after_s

    def _lost(self, reason: str) -> None:
        was_ready = self._ready.is_set()
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        self._process = self.pid = self.status = None
        self._ready.clear()
        self.cycles = 0
        self.reason = reason
        self.state = "failed" if self._failed_starts >= START_FAILURES else "restarting"
        message = f"The device worker {self.name} went away ({reason})."
        for number, generation in self._generations.items():
            generation.finish(pipe.Refused(number, 503, "worker_lost", message, RETRY_AFTER_S))
        for number, (_, question) in self._questions.items():
            _settle(question, pipe.Refused(number, 503, "worker_lost", message, RETRY_AFTER_S))
        for load in self._loads.values():
            if not load.done():
                load.set_exception(WorkerLoadError("worker_lost", message))
        for unload in self._unloads.values():
            if not unload.done():
                unload.set_result(None)
        for table in (self._generations, self._questions, self._loads, self._unloads, self.progress):
            table.clear()
        self._owner.worker_lost(self)
        self._owner.changed(urgent=True)

    # --- messages -------------------------------------------------------------------------------------

    def _handle(self, message: pipe.ToDaemon) -> None:
        match message:
            case pipe.Tokens(id=number, tokens=tokens, logprobs=logprobs):
                if generation := self._generations.get(number):
                    generation.push(tokens, logprobs)
            case pipe.Scored(id=number, logprobs=logprobs):
                if generation := self._generations.get(number):
                    generation.prompt_logprobs += logprobs
            case pipe.Finished(id=number) | pipe.Refused(id=number):
                if generation := self._generations.pop(number, None):
                    generation.finish(message)
                else:
                    self._settle(number, message)
            case pipe.Embedded(id=number) | pipe.Looked(id=number) | pipe.Memory(id=number):
                self._settle(number, message)
            case pipe.Status():
                is_news, self.status = message != self.status, message
                if is_news:
                    self._owner.changed(urgent=False)
            case pipe.Ready(pid=pid):
                self.pid, self.state = pid, "ready"
                self._ready.set()
                log.info("device worker ready", extra={"worker": message.thread, "pid": pid})
                self._owner.worker_ready(self)
                self._owner.changed(urgent=True)
            case _:
                self._handle_load(message)

    def _settle(self, number: int, end: Answer) -> None:
        if question := self._questions.pop(number, None):
            _settle(question[1], end)

    def _handle_load(
        self, message: pipe.LoadProgress | pipe.Loaded | pipe.LoadFailed | pipe.Unloaded
    ) -> None:
        if isinstance(message, pipe.LoadProgress):
            self.progress[message.model] = message.fraction
            self._owner.changed(urgent=False)
            return
        if isinstance(message, pipe.Unloaded):
            self.cycles += 1
            if unload := self._unloads.pop(message.model, None):
                unload.set_result(None)
            return
        self.progress.pop(message.model, None)
        load = self._loads.pop(message.model, None)
        if isinstance(message, pipe.Loaded):
            self.cycles += 1
        if load is None or load.done():
            return
        if isinstance(message, pipe.Loaded):
            load.set_result(message)
        else:
            load.set_exception(WorkerLoadError(message.code, message.message))

    # --- verbs ----------------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Wait for the worker to be ready; raises `WorkerLoadError` when the start time-out passes first."""
        try:
            await asyncio.wait_for(self._ready.wait(), self._restart.start_timeout_s)
        except TimeoutError as error:
            raise WorkerLoadError("worker_lost", f"The device worker {self.name} does not start.") from error

    async def load(self, model: str, path: str) -> pipe.Loaded:
        """Load a directory; raises `WorkerLoadError`. One at a time per model."""
        if self._process is None:
            raise WorkerLoadError("worker_lost", f"The device worker {self.name} is not running.")
        load: asyncio.Future[pipe.Loaded] = asyncio.get_running_loop().create_future()
        self._loads[model] = load
        self._send(pipe.Load(model, path))
        return await load

    async def unload(self, model: str) -> None:
        """Drop a model; returns when its memory is free."""
        if self._process is None:
            return
        if model not in self._unloads:
            self._unloads[model] = asyncio.get_running_loop().create_future()
            self._send(pipe.Unload(model))
        await asyncio.shield(self._unloads[model])

    def is_busy(self, model: str) -> bool:
        """Whether a request for it is under way."""
        return any(generation.model == model for generation in self._generations.values()) or any(
            asked == model for asked, _ in self._questions.values()
        )

    async def restart(self) -> None:
        """A new process in place of this one; returns when that is ready. Raises `WorkerLoadError`."""
        if self._process is not None and self._restarting is None:
            self._restarting = asyncio.get_running_loop().create_future()
            await self._process.end(STOP_GRACE_S)
        if self._restarting is not None:
            await asyncio.shield(self._restarting)
        await self.wait_ready()

    def submit(self, submit: pipe.Submit, *, max_unread: int) -> Generation:
        """The generation that the submit begins; it ends at once when the worker is not running."""
        generation = Generation(submit.id, submit.model, cancel=self._cancel, max_unread=max_unread)
        if self._process is None:
            message = f"The device worker {self.name} is not running."
            generation.finish(pipe.Refused(submit.id, 503, "worker_lost", message, RETRY_AFTER_S))
            return generation
        self._generations[submit.id] = generation
        self._send(submit)
        return generation

    async def embed(self, model: str, inputs: list[list[int]]) -> bytes:
        """The vectors of all inputs, in float32. Raises `ApiError`."""
        answer: pipe.Embedded = await self._ask(model, pipe.Embed(pipe.next_id(), model, inputs))
        return answer.vectors

    async def look(self, model: str, images: list[bytes]) -> pipe.Looked:
        """Raises `ApiError`."""
        answer: pipe.Looked = await self._ask(model, pipe.Look(pipe.next_id(), model, images))
        return answer

    async def reset_cache(self, model: str) -> None:
        """Forget what the model's cache keeps of requests that ended. Raises `ApiError`."""
        await self._ask(model, pipe.ResetCache(pipe.next_id(), model))

    async def memory(self) -> pipe.Memory:
        """As it is now. Raises `ApiError`."""
        answer: pipe.Memory = await self._ask("", pipe.AskMemory(pipe.next_id()))
        return answer

    async def _ask(self, model: str, question: Question) -> Any:
        if self._process is None:
            message = f"The device worker {self.name} is not running."
            raise ApiError(503, "worker_lost", message, retry_after_s=RETRY_AFTER_S)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions[question.id] = model, answer
        self._send(question)
        try:
            return await answer
        except asyncio.CancelledError:
            self._cancel(question.id)
            raise

    def _cancel(self, number: int) -> None:
        self._send(pipe.Cancel(number))

    def _send(self, message: pipe.ToWorker) -> None:
        if self._process:
            self._process.send(message)

    # --- report ---------------------------------------------------------------------------------------

    def health(self) -> DeviceHealth:
        return DeviceHealth(
            index=self.device.index,
            state=self.state,
            worker=self.name,
            pid=self.pid,
            rss_mb=rss_mb(self.pid),
            memory_used_mb=self.status.memory_used_mb if self.status else 0,
            memory_free_mb=self.status.memory_free_mb if self.status else 0,
            fragmented_mb=self.status.fragmented_mb if self.status else 0,
            cycles=self.cycles,
            restarts=self.restarts,
            reason=self.reason,
        )


def _settle(question: asyncio.Future[Any], end: Answer) -> None:
    if question.done():  # nobody waits any more
        return
    match end:
        case pipe.Refused():
            retry = end.retry_after_s
            question.set_exception(ApiError(end.status, end.code, end.message, retry_after_s=retry))
        case pipe.Finished():
            question.set_exception(ApiError(503, "cancelled", "The request was cancelled."))
        case _:
            question.set_result(end)


def rss_mb(pid: int | None) -> int | None:
    """Resident memory of a process; None when there is none."""
    try:
        return int(psutil.Process(pid).memory_info().rss) // MIB if pid else None
    except psutil.Error:
        return None

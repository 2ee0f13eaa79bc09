"""Keeps the worker of one device running, and carries requests to it and answers back.

States: starting → ready → restarting → ready …; `failed` once `START_FAILURES` starts in a row did not become
ready, while attempts go on. When the process ends, for whatever reason, all its work ends with an error, and
`WorkerOwner.worker_lost` is called before the next attempt.
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
from neuron.supervisor.pending import RETRY_AFTER_S, PendingWork, WorkerLoadError
from neuron.supervisor.worker_process import PipeError, WorkerProcess
from neuron.wire import MIB, ApiError, DeviceHealth, DeviceInfo, DeviceState

log = logging.getLogger("neuron.device")

START_FAILURES = 3
STOP_GRACE_S = 5.0
LEAVE_GRACE_S = 1.0  # for a worker that closed its end of the pipe to end by itself

Question = pipe.Embed | pipe.ProcessImages | pipe.ResetCache | pipe.AskMemory


class WorkerOwner(Protocol):
    """Is told what happens to a worker. The calls must not block."""

    def worker_ready(self, worker: DeviceWorker) -> None: ...

    def worker_lost(self, worker: DeviceWorker) -> None: ...

    def group_lost(self, worker: DeviceWorker, lost: pipe.GroupLost) -> None: ...
    def model_dropped(self, worker: DeviceWorker, model: str) -> None:
        """A model that was asleep is gone."""
        ...

    def changed(self, *, urgent: bool) -> None:
        """Something that `/events` shows is different; not urgent when it is mere load."""
        ...


class DeviceWorker:
    """The worker of one device, whichever process is it at present."""

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
        self._pending = PendingWork()
        self._last_sign = 0.0
        self._failed_starts = 0
        self._restarting: asyncio.Future[None] | None = None  # done when the process told to go is gone
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
                self._restarting = None
                delay = self._restart.first_delay_s
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
        reason = ""
        is_gone = False
        try:
            self._process = await WorkerProcess.start(self._command)
            reason = await self._listen(self._process)
            is_gone = True
        except OSError as error:
            reason = f"cannot be started: {error}"
        except asyncio.CancelledError:
            reason = "neuron is stopping"
            raise
        finally:  # also when the daemon stops
            if self._process:
                how = await self._process.end(self._grace_s(is_gone))
                reason = reason or how
            if self._restarting:
                reason = "was restarted"
            self._lost(reason)

    def _grace_s(self, is_gone: bool) -> float:
        if is_gone:
            return LEAVE_GRACE_S
        return STOP_GRACE_S if self._ready.is_set() else 0.0  # only a worker that is ready ends by itself

    async def _listen(self, process: WorkerProcess) -> str:
        """Serve until the worker is gone. Returns why it had to go, nothing when it left by itself."""
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
        if watchdog.done() and not watchdog.cancelled():
            return watchdog.result()
        return ""

    async def _watch(self, process: WorkerProcess) -> str:
        """Kill the process when it is silent for too long. Returns the reason."""
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
        if self._pending.is_loading:
            return self._restart.load_silence_s
        return self._restart.wedged_after_s

    def _lost(self, reason: str) -> None:
        was_ready = self._ready.is_set()
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        self._process = self.pid = self.status = None
        self._ready.clear()
        self.cycles = 0
        self.reason = reason
        self.state = "failed" if self._failed_starts >= START_FAILURES else "restarting"
        self.progress.clear()
        self._pending.end_all(f"The device worker {self.name} went away ({reason}).")
        self._owner.worker_lost(self)
        self._owner.changed(urgent=True)

    # --- messages -------------------------------------------------------------------------------------

    def _handle(self, message: pipe.ToDaemon) -> None:
        match message:
            case pipe.Ready(pid=pid, thread=thread):
                self._become_ready(pid, thread)
            case pipe.Status():
                if message != self.status:
                    self.status = message
                    self._owner.changed(urgent=False)
            case pipe.LoadProgress(model=model, fraction=fraction):
                self.progress[model] = fraction
                self._owner.changed(urgent=False)
            case pipe.Loaded(model=model) | pipe.LoadFailed(model=model):
                self.progress.pop(model, None)
                self.cycles += isinstance(message, pipe.Loaded)
                self._pending.take(message)
            case pipe.GroupLost():
                self._owner.group_lost(self, message)
            case pipe.Unloaded():
                self.cycles += 1
                self._pending.take(message)
            case pipe.Dropped(model=model):
                self._owner.model_dropped(self, model)
            case _:
                self._pending.take(message)

    def _become_ready(self, pid: int, thread: str) -> None:
        self.pid = pid
        self.state = "ready"
        self._ready.set()
        log.info("device worker ready", extra={"worker": thread, "pid": pid})
        self._owner.worker_ready(self)
        self._owner.changed(urgent=True)

    # --- verbs ----------------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Wait for the worker to be ready. Raises `WorkerLoadError` when the start time-out passes first."""
        try:
            await asyncio.wait_for(self._ready.wait(), self._restart.start_timeout_s)
        except TimeoutError as error:
            raise WorkerLoadError("worker_lost", f"The device worker {self.name} does not start.") from error

    async def load(  # noqa: PLR0913
        self,
        model: str,
        path: str,
        quant: str | None,
        kv_dtype: str | None = None,
        rank: pipe.GroupRank | None = None,
        *,
        speculation: str | None = None,
        draft: str | None = None,
    ) -> pipe.Loaded:
        """Load a model, or a rank's part of it, one at a time per name. Raises `WorkerLoadError`."""
        return await self._load(pipe.Load(model, path, quant, kv_dtype, rank, speculation, draft=draft))

    async def load_adapter(self, name: str, path: str, base: str, number: int) -> pipe.Loaded:
        """Load an adapter over a model, by a number that no other has over it. Raises `WorkerLoadError`."""
        return await self._load(pipe.Load(name, path, base=base, number=number))

    async def _load(self, message: pipe.Load) -> pipe.Loaded:
        if self._process is None:
            raise WorkerLoadError("worker_lost", self._not_running)
        load = self._pending.add_load(message.model)
        self._send(message)
        return await load

    async def unload(self, model: str, *, keep: bool = False, priority: int = 0) -> int | None:
        """Drop a model, or let it fall asleep if there is room to `keep` it.

        Returns when its memory is free: the MiB of the host that it takes now, or None if it is gone.
        """
        if self._process is None:
            return None
        unload = self._pending.unload(model)
        if unload is None:
            unload = self._pending.add_unload(model)
            self._send(pipe.Unload(model, keep, priority))
        return (await asyncio.shield(unload)).host_mb

    def is_busy(self, model: str) -> bool:
        """Whether a request for the model is under way."""
        return self._pending.is_busy(model)

    def end_silent(self, after_s: float) -> None:
        """Kill the process if it gave no sign of life for so long."""
        silence = time.monotonic() - self._last_sign
        if self._process is not None and silence >= after_s:
            log.error("device worker is silent", extra={"worker": self.name, "silence_s": round(silence, 1)})
            self._process.kill()

    async def restart(self) -> None:
        """Replace the process; returns when the new one is ready. Raises `WorkerLoadError`."""
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
            refused = pipe.Refused(submit.id, 503, "worker_lost", self._not_running, RETRY_AFTER_S)
            generation.finish(refused)
            return generation
        self._send(submit)  # first, so that nothing stays pending if it cannot be encoded
        self._pending.add_generation(generation)
        return generation

    async def embed(
        self, model: str, inputs: list[list[int]], *, num_prompt: int = 0, seconds: Sequence[int] = ()
    ) -> bytes:
        """What `LocalModel.embed` returns. Raises `ApiError`."""
        question = pipe.Embed(pipe.next_id(), model, inputs, num_prompt, list(seconds))
        answer: pipe.Embedded = await self._ask(model, question)
        return answer.vectors

    async def process_images(self, model: str, files: list[bytes | pipe.VideoFile]) -> pipe.ImagesProcessed:
        """How the prompt is to show these images and videos. Raises `ApiError`."""
        question = pipe.ProcessImages(pipe.next_id(), model, files)
        answer: pipe.ImagesProcessed = await self._ask(model, question)
        return answer

    async def reset_cache(self, model: str) -> None:
        """Forget what the model's cache keeps of requests that ended. Raises `ApiError`."""
        await self._ask(model, pipe.ResetCache(pipe.next_id(), model))

    async def memory(self) -> pipe.Memory:
        """The device's memory as it is now. Raises `ApiError`."""
        answer: pipe.Memory = await self._ask("", pipe.AskMemory(pipe.next_id()))
        return answer

    async def _ask(self, model: str, question: Question) -> Any:
        if self._process is None:
            raise ApiError(503, "worker_lost", self._not_running, retry_after_s=RETRY_AFTER_S)
        answer = self._pending.add_question(question.id, model)
        self._send(question)
        try:
            return await answer
        except asyncio.CancelledError:
            self._cancel(question.id)
            raise

    @property
    def _not_running(self) -> str:
        return f"The device worker {self.name} is not running."

    def _cancel(self, number: int) -> None:
        self._send(pipe.Cancel(number))

    def _send(self, message: pipe.ToWorker) -> None:
        if self._process:
            self._process.send(message)

    # --- report ---------------------------------------------------------------------------------------

    def health(self) -> DeviceHealth:
        memory = self.status or pipe.Status(0, 0, [])
        return DeviceHealth(
            index=self.device.index,
            state=self.state,
            worker=self.name,
            pid=self.pid,
            rss_mb=rss_mb(self.pid),
            memory_used_mb=memory.memory_used_mb,
            memory_free_mb=memory.memory_free_mb,
            fragmented_mb=memory.fragmented_mb,
            cycles=self.cycles,
            restarts=self.restarts,
            reason=self.reason,
        )


def rss_mb(pid: int | None) -> int | None:
    """Resident memory of a process; None when there is none."""
    try:
        return int(psutil.Process(pid).memory_info().rss) // MIB if pid else None
    except psutil.Error:
        return None

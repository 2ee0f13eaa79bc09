"""The loop of the thread that owns the device.

One turn handles the messages that have come, at most one load or unload among them, runs one step of every
model that has work, and sends the daemon what came of it. While a model loads, every tensor read is followed
by such a turn: other models' streams keep flowing and the daemon keeps hearing from this thread. Loads and
unloads that come meanwhile wait for the end of the load, and each for a turn of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path

from neuron.device.collective import GroupLostError
from neuron.device.memory import MIB
from neuron.engine.grammar_matcher import GrammarError, LLGuidanceMatcher
from neuron.models.checkpoint import ModelLoadError
from neuron.models.weights import OnProgress
from neuron.pipe import (
    HEARTBEAT_S,
    STATUS_INTERVAL_S,
    AskMemory,
    Cancel,
    Dropped,
    Embed,
    Finished,
    GroupLost,
    ImagesProcessed,
    Load,
    LoadFailed,
    LoadProgress,
    Memory,
    ModelStatus,
    ProcessImages,
    Ready,
    Refused,
    ResetCache,
    Shutdown,
    Status,
    Submit,
    ToDaemon,
    Unload,
    Unloaded,
)
from neuron.step import NotNumbersError, PoisonedError
from neuron.worker.channel import Channel, Delivery
from neuron.worker.grammar_thread import CompiledRequest, GrammarThread
from neuron.worker.image_thread import ImageThread, prompt_images
from neuron.worker.model_pool import ModelPool
from neuron.worker.rank_plan import PlanReady
from neuron.worker.resident_model import ResidentModel

log = logging.getLogger("neuron.worker")

PROGRESS_STEP = 0.01  # between two reports, of the checkpoint's bytes
RETRY_AFTER_S = 5  # when a model or the device goes away
PLANS_A_TURN = 16  # of a group's rank 0 that another rank runs before it reports


class DeviceLoop:
    """Serves one device's models. `run` returns after `Shutdown`."""

    def __init__(
        self, pool: ModelPool, channel: Channel, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._channel = channel
        self._clock = clock
        self._grammar_thread = GrammarThread(channel.deliver)
        self._image_thread = ImageThread(channel.deliver)
        self._outbox: list[ToDaemon] = []
        self._lifecycle: deque[Load | Unload | Shutdown] = deque()  # in the order in which they came
        self._unproven: set[str] = set()  # models that have not come to numbers yet
        self._is_loading = False
        self._is_running = True
        self._sent_status: list[ModelStatus] | None = None
        self._sent_status_at = 0.0

    def run(self) -> None:
        """Serve until `Shutdown`.

        Raises PoisonedError when the device is unusable; its requests have been answered by then.
        """
        thread = threading.current_thread().name
        self._outbox.append(Ready(os.getpid(), thread, self._pool.budget // MIB))
        try:
            while self._is_running:
                self._turn()
        except PoisonedError as error:
            self._end_all("engine_error", f"the device failed: {error}")
            raise
        finally:
            self._flush()

    def _turn(self) -> None:
        for message in self._channel.receive(self._wait_s()):
            self._handle(message)
        if self._lifecycle and not self._is_loading:
            self._handle_lifecycle(self._lifecycle.popleft())
        for resident in tuple(self._pool.models.values()):
            self._step(resident)
        self._report_status()
        self._flush()

    def _wait_s(self) -> float:
        """Return how long to wait for a message: not at all while there is work."""
        has_work = any(resident.scheduler.has_work for resident in self._pool.models.values())
        if has_work or self._is_loading or self._lifecycle or self._outbox:
            return 0.0
        due = STATUS_INTERVAL_S if self._status() != self._sent_status else HEARTBEAT_S
        return max(0.0, self._sent_status_at + due - self._clock())

    def _flush(self) -> None:
        self._channel.send(self._outbox)
        self._outbox = []

    # --- messages ---------------------------------------------------------------------------------------

    def _handle(self, message: Delivery) -> None:
        match message:
            case Submit() | Embed():
                self._submit(message)
            case PlanReady():
                self._follow(message.model)
            case CompiledRequest():
                self._submit_compiled(message)
            case ProcessImages():
                self._process_images(message)
            case ImagesProcessed() | Refused():
                if self._image_thread.pop(message.id):
                    self._outbox.append(message)
            case Cancel():
                self._cancel(message.id)
            case ResetCache():
                self._reset_cache(message)
            case AskMemory():
                self._outbox.append(Memory(message.id, *self._memory()))
            case Load() | Unload() | Shutdown():
                self._lifecycle.append(message)

    def _handle_lifecycle(self, message: Load | Unload | Shutdown) -> None:
        match message:
            case Load():
                self._load(message)
            case Unload():
                self._unload(message)
            case Shutdown():
                self._end_all("shutting_down", "the device worker is shutting down")
                self._is_running = False

    def _submit(self, message: Submit | Embed, matcher: LLGuidanceMatcher | None = None) -> None:
        resident, adapter = self._pool.find(message.model) or (None, None)
        if resident is None:
            self._refuse_unloaded(message.id, message.model)
        elif not isinstance(message, resident.scheduler.request_type):
            makes = "writes no texts" if isinstance(message, Submit) else "makes no embeddings"
            self._outbox.append(Refused(message.id, 400, "wrong_modality", f"{message.model} {makes}"))
        elif isinstance(message, Submit) and message.grammar is not None and matcher is None:
            tokenizer_file = resident.path / "tokenizer.json"
            if dropped := self._grammar_thread.enqueue(message, message.grammar, tokenizer_file):
                text = "too many requests wait for their schema to be compiled"
                self._outbox.append(Refused(dropped.id, 429, "queue_full", text, RETRY_AFTER_S))
        elif (images := prompt_images(message, resident.image_processor)) is None:
            text = "an image of the request was dropped before its turn; send it again"
            self._outbox.append(Refused(message.id, 503, "image_forgotten", text, 1))
        elif refused := resident.scheduler.submit(message, self._clock(), matcher, images, adapter):
            self._outbox.append(refused)

    def _refuse_unloaded(self, request_id: int, model: str) -> None:
        """Refuse what was on its way while its model was unloaded."""
        text = f"{model} was unloaded"
        self._outbox.append(Refused(request_id, 503, "model_unloaded", text, RETRY_AFTER_S))

    def _process_images(self, message: ProcessImages) -> None:
        resident, _ = self._pool.find(message.model) or (None, None)
        if resident is None:
            self._refuse_unloaded(message.id, message.model)
        elif resident.image_processor is None:
            text = f"{message.model} does not read images"
            self._outbox.append(Refused(message.id, 400, "wrong_modality", text))
        elif not self._image_thread.enqueue(message, resident.image_processor):
            text = "too many requests wait for their images to be processed"
            self._outbox.append(Refused(message.id, 429, "queue_full", text, RETRY_AFTER_S))

    def _submit_compiled(self, compiled: CompiledRequest) -> None:
        submit, matcher = compiled.submit, compiled.matcher
        if not self._grammar_thread.pop(submit.id):
            return  # it was cancelled meanwhile
        if isinstance(matcher, GrammarError):
            self._outbox.append(Refused(submit.id, 400, "invalid_grammar", str(matcher)))
        else:
            self._submit(submit, matcher)

    def _cancel(self, request: int) -> None:
        if submit := self._grammar_thread.pop(request):
            self._outbox.append(Finished(request, "cancelled", len(submit.tokens), 0))
            return
        if self._image_thread.pop(request):
            self._outbox.append(Finished(request, "cancelled", 0, 0))
            return
        for resident in self._pool.models.values():
            if finished := resident.scheduler.cancel(request):
                self._outbox.append(finished)
                return

    def _load(self, message: Load) -> None:
        self._is_loading = True
        started, was_asleep = self._clock(), message.model in self._pool.asleep
        try:
            if message.base is not None:
                adapter = self._pool.load_adapter(
                    message.model, message.base, Path(message.path), message.number
                )
                self._outbox.append(adapter.loaded(message.model))
                return
            resident = self._pool.load(
                message.model,
                Path(message.path),
                self._on_progress(message.model),
                quant=message.quant,
                kv_dtype=message.kv_dtype,
                place=message.rank,
                speculation=message.speculation,
                draft=Path(message.draft) if message.draft else None,
            )
            if resident.wake is not None:
                self._channel.watch(resident.wake, PlanReady(message.model))
            self._unproven.add(message.model)
            took_s = round(self._clock() - started, 3)
            self._outbox.append(resident.announcement(message.model, took_s, was_asleep=was_asleep))
        except PoisonedError:
            raise
        except ModelLoadError as error:
            self._fail_load(message, error.code, error.message)
        except Exception as error:
            log.exception("load crashed", extra={"model": message.model})
            lines = str(error).strip().splitlines()
            cause = ": ".join([type(error).__name__, *lines[:1]])
            self._fail_load(message, "model_broken", f"{message.path}: cannot be loaded: {cause}")
        finally:
            self._is_loading = False
            self._report_dropped()
            if self._pool.find(message.model) is None:
                self._pool.release_unused()  # all of it: no traceback holds it any more

    def _fail_load(self, message: Load, code: str, cause: str) -> None:
        log.warning("load failed", extra={"model": message.model, "code": code, "cause": cause})
        self._outbox.append(LoadFailed(message.model, code, cause))

    def _on_progress(self, model: str) -> OnProgress:
        reported = -PROGRESS_STEP

        def on_progress(fraction: float) -> None:
            nonlocal reported
            if fraction - reported >= PROGRESS_STEP:
                reported = fraction
                self._outbox.append(LoadProgress(model, fraction))
            self._turn()

        return on_progress

    def _unload(self, message: Unload) -> None:
        model, host_mb = message.model, None
        if found := self._pool.adapters.get(model):
            self._outbox += found.end_all("model_unloaded", f"{model} was unloaded", RETRY_AFTER_S)
            self._pool.adapters.unload(model)
            self._outbox.append(Unloaded(model))
            return
        resident = self._pool.unload(model)
        if resident is not None:
            self._drop(resident, "model_unloaded", f"{model} was unloaded")
            loaded, runner = resident.loaded, weakref.ref(resident.runner)
            del resident
            if message.keep and self._pool.asleep.put(model, loaded, message.priority):
                host_mb = loaded.memory_mb
            del loaded
            self._pool.release_unused(collects=host_mb is None or runner() is not None)
        self._report_dropped()  # first: who asked may look once it has the answer
        self._outbox.append(Unloaded(model, host_mb))

    def _report_dropped(self) -> None:
        self._outbox += map(Dropped, self._pool.asleep.take_dropped())

    def _drop(self, resident: ResidentModel, code: str, message: str) -> None:
        """End the requests of a model that the pool has given up, and its part in a group."""
        self._outbox += resident.scheduler.end_all(code, message, RETRY_AFTER_S)
        if resident.wake is not None:
            self._channel.unwatch(resident.wake)
        if resident.link:
            resident.link.close()

    def _reset_cache(self, message: ResetCache) -> None:
        found = self._pool.find(message.model)
        if found is None:
            self._refuse_unloaded(message.id, message.model)
            return
        found[0].scheduler.reset_cache()
        self._outbox.append(Memory(message.id, *self._memory()))

    def _end_all(self, code: str, message: str) -> None:
        for submit in self._grammar_thread.pop_all():
            self._outbox.append(Refused(submit.id, 503, code, message, RETRY_AFTER_S))
        for resident in self._pool.models.values():
            self._outbox += resident.scheduler.end_all(code, message, RETRY_AFTER_S)

    # --- steps ------------------------------------------------------------------------------------------

    def _step(self, resident: ResidentModel) -> None:
        scheduler = resident.scheduler
        started = self._clock()
        self._outbox += scheduler.expire(started)
        plan = scheduler.plan(self._streams_s() - scheduler.stream_s)
        if plan is None:
            return
        try:
            result = resident.runner.run(plan)
        except GroupLostError as error:
            self._lose(scheduler.model, error)
            return
        except Exception as error:
            is_unproven = isinstance(error, NotNumbersError) and scheduler.model in self._unproven
            if isinstance(error, PoisonedError) and not (resident.damage or is_unproven):
                raise
            log.exception("step failed", extra={"model": scheduler.model})
            cause = resident.damage or f"{type(error).__name__}: {error}"
            if is_unproven:
                cause = f"{resident.path}: its weights give logits that are not numbers; load another copy"
            self._outbox += scheduler.fail(plan, f"the step failed: {cause}")
            return
        self._unproven.discard(scheduler.model)
        if damage := resident.damage:  # then it may have been made of other numbers than the model's
            self._outbox += scheduler.fail(plan, damage)
        else:
            self._outbox += scheduler.apply(plan, result, self._clock() - started)

    def _streams_s(self) -> float:
        return sum(resident.scheduler.stream_s for resident in self._pool.models.values())

    def _follow(self, model: str) -> None:
        """Compute this rank's part of the plan that rank 0 has told, and of those that follow at once."""
        for _ in range(PLANS_A_TURN):
            resident = self._pool.followed.get(model)
            if resident is None:
                return
            try:
                resident.follow()
            except GroupLostError as error:
                del resident
                self._lose(model, error)
                return
            if self._channel.has_messages or not self._wait_s() or not resident.is_next_told:
                return
        self._channel.deliver(PlanReady(model))

    def _lose(self, model: str, error: GroupLostError) -> None:
        """Drop a model whose group is over: only all ranks together can begin anew."""
        log.error("group lost", extra={"model": model, "cause": str(error)})
        resident = self._pool.unload(model)
        if resident is not None:
            self._drop(resident, "worker_lost", f"{model} is loaded again: {error}")
            del resident
            self._pool.release_unused()
        self._outbox.append(GroupLost(model, str(error)))

    # --- status -----------------------------------------------------------------------------------------

    def _status(self) -> list[ModelStatus]:
        models = [resident.scheduler.status() for resident in self._pool.models.values()]
        return models + self._pool.adapters.status()

    def _report_status(self) -> None:
        """Send `Status` when it has changed, at most every `STATUS_INTERVAL_S`, and every `HEARTBEAT_S`."""
        now = self._clock()
        age = now - self._sent_status_at
        if self._sent_status is not None and age < STATUS_INTERVAL_S:
            return
        models = self._status()
        if models == self._sent_status and age < HEARTBEAT_S:
            return
        self._sent_status = models
        self._sent_status_at = now
        used, free, fragmented = self._memory()
        self._outbox.append(Status(used, free, models, fragmented))

    def _memory(self) -> tuple[int, int, int]:
        """Return MiB used, free and fragmented."""
        return self._pool.used // MIB, self._pool.free // MIB, self._pool.fragmented // MIB

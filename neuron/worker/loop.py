"""The life of the thread that owns the device.

One turn: take the messages that came, run one step of every model that has work, tell the daemon. While a
model loads, every tensor read is followed by such a turn, so that the other models' streams keep flowing and
the daemon keeps hearing from this thread; loads and unloads that come meanwhile wait until it is done.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from neuron.device.memory import MIB
from neuron.engine.guide import GrammarError, MatcherGuide
from neuron.models.checkpoint import LoadError
from neuron.models.loading import OnProgress
from neuron.pipe import (
    HEARTBEAT_S,
    STATUS_INTERVAL_S,
    AskMemory,
    Cancel,
    Embed,
    Finished,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Look,
    Looked,
    Memory,
    ModelStatus,
    Ready,
    Refused,
    ResetCache,
    Shutdown,
    Sight,
    Status,
    Submit,
    ToDaemon,
    ToWorker,
    Unload,
    Unloaded,
)
from neuron.step import Image, PoisonedError
from neuron.worker.channel import Channel, Delivery
from neuron.worker.compiler import Compiled, Compiler
from neuron.worker.looker import Looker
from neuron.worker.slab import Resident, Slab

log = logging.getLogger("neuron.worker")

PROGRESS_STEP = 0.01
RETRY_AFTER_S = 5  # when a model or the device goes away


class DeviceLoop:
    """Everything but the device's opening and the process's end. `run` returns after `Shutdown`."""

    def __init__(self, slab: Slab, channel: Channel, clock: Callable[[], float] = time.monotonic) -> None:
        self._slab = slab
        self._channel = channel
        self._clock = clock
        self._compiler = Compiler(channel.deliver)
        self._looker = Looker(channel.deliver)
        self._outbox: list[ToDaemon] = []
        self._deferred: deque[ToWorker] = deque()  # loads, unloads and a shutdown that came during a load
        self._is_loading = False
        self._is_running = True
        self._sent_status: list[ModelStatus] | None = None
        self._sent_status_at = 0.0

    def run(self) -> None:
        """Serve. Raises PoisonedError when the device can no more; its requests have their answers then."""
        thread = threading.current_thread().name
        self._outbox.append(Ready(os.getpid(), thread, self._slab.budget // MIB))
        try:
            while self._is_running:
                self._turn()
        except PoisonedError as error:
            self._end_all("engine_error", f"the device failed: {error}")
            raise
        finally:
            self._flush()

    def _turn(self) -> None:
        for message in self._channel.receive(self._patience_s()):
            self._handle(message)
        while self._deferred and not self._is_loading:
            self._handle(self._deferred.popleft())
        for resident in tuple(self._slab.models.values()):
            self._step(resident)
        self._report()
        self._flush()

    def _patience_s(self) -> float:
        """How long to wait for a message: not at all while there is work."""
        if self._is_loading or self._outbox or any(r.scheduler.has_work for r in self._slab.models.values()):
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
            case Compiled():
                self._submit_compiled(message)
            case Look():
                self._look(message)
            case Looked() | Refused():
                if self._looker.end(message.id):
                    self._outbox.append(message)
            case Cancel():
                self._cancel(message.id)
            case ResetCache():
                self._reset_cache(message)
            case AskMemory():
                self._outbox.append(Memory(message.id, *self._memory()))
            case _ if self._is_loading:
                self._deferred.append(message)
            case _:
                self._handle_life(message)

    def _handle_life(self, message: Load | Unload | Shutdown) -> None:
        match message:
            case Load():
                self._load(message)
            case Unload():
                self._unload(message.model)
            case Shutdown():
                self._end_all("shutting_down", "the device worker is shutting down")
                self._is_running = False

    def _submit(self, message: Submit | Embed, guide: MatcherGuide | None = None) -> None:
        resident = self._slab.models.get(message.model)
        if resident is None:
            text = f"{message.model} is not loaded"
            self._outbox.append(Refused(message.id, 503, "model_not_loaded", text, RETRY_AFTER_S))
        elif not isinstance(message, resident.scheduler.kind):
            text = f"{message.model} does not answer a {type(message).__name__}"
            self._outbox.append(Refused(message.id, 400, "wrong_modality", text))
        elif isinstance(message, Submit) and message.guide is not None and guide is None:
            if not self._compiler.begin(message, message.guide, resident.path / "tokenizer.json"):
                text = "too many requests wait for their schema to be compiled"
                self._outbox.append(Refused(message.id, 429, "queue_full", text, RETRY_AFTER_S))
        elif (images := _images(message, resident)) is None:
            text = "an image of the request was forgotten before its turn; send it again"
            self._outbox.append(Refused(message.id, 503, "image_forgotten", text, 1))
        elif refused := resident.scheduler.submit(message, self._clock(), guide, images):
            self._outbox.append(refused)

    def _look(self, look: Look) -> None:
        resident = self._slab.models.get(look.model)
        if resident is None or resident.eyes is None:
            text = f"{look.model} does not read images" if resident else f"{look.model} is not loaded"
            status, code = (400, "wrong_modality") if resident else (503, "model_not_loaded")
            self._outbox.append(Refused(look.id, status, code, text))
        elif not self._looker.begin(look, resident.eyes):
            text = "too many requests wait for their images to be read"
            self._outbox.append(Refused(look.id, 429, "queue_full", text, RETRY_AFTER_S))

    def _submit_compiled(self, compiled: Compiled) -> None:
        submit, guide = compiled.submit, compiled.guide
        if not self._compiler.end(submit.id):
            return  # cancelled meanwhile
        if isinstance(guide, GrammarError):
            self._outbox.append(Refused(submit.id, 400, "invalid_grammar", str(guide)))
        else:
            self._submit(submit, guide)

    def _cancel(self, request: int) -> None:
        if submit := self._compiler.end(request):
            self._outbox.append(Finished(request, "cancelled", len(submit.tokens), 0))
            return
        if self._looker.end(request):
            self._outbox.append(Finished(request, "cancelled", 0, 0))
            return
        for resident in self._slab.models.values():
            if finished := resident.scheduler.cancel(request):
                self._outbox.append(finished)
                return

    def _load(self, message: Load) -> None:
        self._is_loading = True
        try:
            resident = self._slab.load(message.model, Path(message.path), self._on_progress(message.model))
            context = resident.runner.shape.context
            dimensions = getattr(resident.runner, "dimensions", None)
            sizes = resident.memory_mb, resident.needed_mb
            sight = Sight(resident.eyes.marker, resident.eyes.token_id) if resident.eyes else None
            self._outbox.append(Loaded(message.model, *sizes, context, dimensions, sight))
        except LoadError as error:
            log.warning(
                "load failed", extra={"model": message.model, "code": error.code, "cause": error.message}
            )
            self._outbox.append(LoadFailed(message.model, error.code, error.message))
        finally:
            self._is_loading = False
            self._slab.give_back()  # of a failed load everything, now that no traceback holds it

    def _on_progress(self, model: str) -> OnProgress:
        told = -PROGRESS_STEP

        def on_progress(fraction: float) -> None:
            nonlocal told
            if fraction - told >= PROGRESS_STEP:
                told = fraction
                self._outbox.append(LoadProgress(model, fraction))
            self._turn()

        return on_progress

    def _unload(self, model: str) -> None:
        resident = self._slab.unload(model)
        if resident is not None:
            message = f"{model} was unloaded"
            self._outbox += resident.scheduler.end_all("model_unloaded", message, RETRY_AFTER_S)
            del resident
            self._slab.give_back()
        self._outbox.append(Unloaded(model))

    def _reset_cache(self, message: ResetCache) -> None:
        if resident := self._slab.models.get(message.model):
            resident.scheduler.reset_cache()
            self._outbox.append(Memory(message.id, *self._memory()))
            return
        text = f"{message.model} is not loaded"
        self._outbox.append(Refused(message.id, 503, "model_not_loaded", text, RETRY_AFTER_S))

    def _end_all(self, code: str, message: str) -> None:
        for submit in self._compiler.end_all():
            self._outbox.append(Refused(submit.id, 503, code, message, RETRY_AFTER_S))
        for resident in self._slab.models.values():
            self._outbox += resident.scheduler.end_all(code, message, RETRY_AFTER_S)

    # --- steps ------------------------------------------------------------------------------------------

    def _step(self, resident: Resident) -> None:
        scheduler, started = resident.scheduler, self._clock()
        self._outbox += scheduler.expire(started)
        plan = scheduler.plan()
        if plan is None:
            return
        try:
            result = resident.runner.run(plan)
        except PoisonedError:
            raise
        except Exception as error:
            log.exception("step failed", extra={"model": scheduler.model})
            self._outbox += scheduler.fail(plan, f"the step failed: {type(error).__name__}: {error}")
        else:
            self._outbox += scheduler.apply(plan, result, self._clock() - started)

    # --- status -----------------------------------------------------------------------------------------

    def _status(self) -> list[ModelStatus]:
        return [resident.scheduler.status() for resident in self._slab.models.values()]

    def _report(self) -> None:
        """Tell how busy the models are when that changed, or when nothing was told for long."""
        now = self._clock()
        age = now - self._sent_status_at
        if self._sent_status is not None and age < STATUS_INTERVAL_S:
            return
        models = self._status()
        if models == self._sent_status and age < HEARTBEAT_S:
            return
        self._sent_status, self._sent_status_at = models, now
        used, free, fragmented = self._memory()
        self._outbox.append(Status(used, free, models, fragmented))

    def _memory(self) -> tuple[int, int, int]:
        """MiB used, free and fragmented."""
        return self._slab.used // MIB, self._slab.free // MIB, self._slab.fragmented // MIB


def _images(message: Submit | Embed, resident: Resident) -> list[Image] | None:
    """What a request shows, with its pixels; None when the looker has forgotten them."""
    found: list[Image] = []
    eyes = resident.eyes
    if eyes is None or not isinstance(message, Submit):
        return found
    for shown in message.images:
        pixels = eyes.recall(shown.digest)
        if pixels is None:
            return None
        inside = range(shown.start, shown.end)
        places = tuple(at for at in inside if message.tokens[at] == eyes.token_id)
        found.append(Image(places, shown.digest, pixels))
    return found

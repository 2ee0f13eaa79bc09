"""The `torch` harness: places models on device workers and loads them again when a worker was replaced.

A model is loading → loaded → unloading, or failed. One that is unloaded may fall asleep instead of going: it
is loading again when it is woken, and gone when its worker drops it for others or is replaced. A load that
kills its worker is a failed load and is not tried again; a model that was loaded when its worker died goes
back to loading and is loaded again as soon as the worker is ready, `restart.max_reloads` times at most.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from neuron import pipe, sources
from neuron.harness import HarnessContext, HarnessHealth
from neuron.model_texts import read_text
from neuron.models.checkpoint import ModelLoadError, load_warnings
from neuron.models.sentence_modules import sentence_warnings
from neuron.read_ahead import ReadingAhead
from neuron.supervisor.device_choice import allowed_workers, freest, num_devices, ready
from neuron.supervisor.device_group import DeviceGroup
from neuron.supervisor.device_worker import DeviceWorker
from neuron.supervisor.pending import WorkerLoadError
from neuron.supervisor.placed_model import RETRY_AFTER_S, PlacedModel, TorchModel, not_loaded
from neuron.text.directory import BrokenModelError, FitTemplate
from neuron.text.rendering import TemplateRefusal
from neuron.text.traits.fitted_template import FittedTemplate
from neuron.wire import ApiError, Leave, ModelFailure, ModelInfo, ModelLoad, ModelSpec, ModelState

log = logging.getLogger("neuron.models")

WORKER = (sys.executable, "-m", "neuron.worker")
LOAD_STATUS = {"model_not_found": 404, "model_unsupported": 422, "model_broken": 422}  # others: 503
POLL_S = 0.005  # between two looks at whether a model's requests have ended
_LOAD_FIELDS = tuple(name for name in ModelLoad.model_fields if name != "id")


class TorchHarness:
    """See `neuron.harness.Harness`. `worker_command` starts a device worker."""

    name = "torch"

    def __init__(self, context: HarnessContext, *, worker_command: Sequence[str] = WORKER) -> None:
        self._config = context.config
        self._templates = context.templates
        self._url = context.url
        self._changed = context.changed
        command = [*worker_command, *context.config.worker_flags]
        self._workers = [
            DeviceWorker(device, command, restart=context.config.restart, owner=self)
            for device in context.devices
        ]
        self._models: dict[str, PlacedModel] = {}
        self._reloads: set[asyncio.Task[None]] = set()
        self._reading = ReadingAhead(context.config.device)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for worker in self._workers:
                    group.create_task(worker.run(), name=worker.name)
        finally:
            for task in self._reloads:
                task.cancel()
            for model in self._models.values():
                if model.group:
                    model.group.close()

    # --- what others ask ------------------------------------------------------------------------------

    def health(self) -> HarnessHealth:
        loads = [
            ModelLoad(id=status.model, **{name: getattr(status, name) for name in _LOAD_FIELDS})
            for worker in self._workers
            for status in (worker.status.models if worker.status else ())
        ]
        return HarnessHealth([worker.health() for worker in self._workers], loads)

    def list(self) -> list[ModelInfo]:
        return [model.info(self.name) for model in self._models.values()]

    def endpoint(self, model_id: str) -> str:
        self.local_model(model_id)
        return self._url

    def local_model(self, model_id: str) -> TorchModel:
        model = self._models.get(model_id)
        if model is None:
            raise not_loaded(model_id)
        return model.local_model(self._config)

    def relayed_model(self, model_id: str) -> None:
        return None

    def log(self, model_id: str) -> Sequence[str]:
        return ()

    def overhead_ns(self, model_id: str) -> int | None:
        """What the last step's plan took to reach all devices of a model; None of one on one device."""
        model = self._models.get(model_id)
        return model.group.overhead_ns if model and model.group else None

    # --- load -----------------------------------------------------------------------------------------

    async def load(self, spec: ModelSpec) -> None:
        allowed = allowed_workers(spec, self._workers)
        while (model := self._models.get(spec.model_id)) and model.state in {"loading", "unloading"}:
            await model.settled.wait()
        if model and model.state == "loaded":
            model.require_same(spec)
            return
        wakes = model is not None and model.state == "asleep" and model.can_wake(spec, allowed)
        if model and model.state == "asleep" and not wakes:
            await self.unload(model.id, Leave())
        if model is None or not wakes:
            model = self._models[spec.model_id] = PlacedModel(spec)
        model.state = "loading"
        model.settled.clear()
        self._changed(True)
        try:
            if not wakes:
                await self._place(model, allowed)
            await self._load_on_worker(model)
        except ApiError as error:
            if model.state == "loading":
                self._set_failed(model, error.code, error.message)
            raise
        except BaseException as error:
            if model.state == "loading":
                log.exception("load failed", extra={"model": model.id})
                self._set_failed(
                    model, "internal_error", f"the load ended by {type(error).__name__}: {error}"
                )
            raise

    async def read_ahead(self, spec: ModelSpec) -> None:
        model = self._models.get(spec.model_id)
        if model is None or model.state == "failed":  # else its weights are in memory, or on their way
            source = spec.source or spec.model_id
            path, quant, _ = await sources.find(source, self._config.models_dir, spec.quant)
            self._reading.start(path, quant)

    async def _place(self, model: PlacedModel, workers: Sequence[DeviceWorker]) -> None:
        path, is_adapter = await model.find_files(self._config.models_dir)
        if is_adapter:
            while (base := self._models.get(model.base_id)) and base.state == "loading":
                await base.settled.wait()
            model.stand_on(base)
            return
        self._reading.start(path, model.quant)
        model.warnings = [*load_warnings(path), *sentence_warnings(path)]
        try:
            settings = model.text_settings(path)
            model.text = await asyncio.to_thread(read_text, path, settings, self._fit_from_thread())
        except BrokenModelError as error:
            raise ApiError(422, "model_broken", str(error)) from error
        except ModelLoadError as error:
            raise ApiError(422, error.code, error.message) from error
        except ApiError:
            raise
        except Exception as error:
            # a stranger's files: whatever is wrong with them fails this load
            what = f"{model.path}: its files for text cannot be read: {type(error).__name__}: {error}"
            raise ApiError(422, "model_broken", what) from error
        count = num_devices(model.spec)
        others = [
            other.group.workers for other in self._models.values() if other.group and other.state != "failed"
        ]
        chosen = await freest(workers, count, others)
        model.group = DeviceGroup(chosen, self._config.restart.rank_timeout_s)
        await ready(chosen)

    def _fit_from_thread(self) -> FitTemplate:
        """A function for a thread that reads a model: templates are probed where they can be killed."""
        loop = asyncio.get_running_loop()

        def fit(*template: Any) -> FittedTemplate | TemplateRefusal:
            return asyncio.run_coroutine_threadsafe(self._templates.fit(*template), loop).result()

        return fit

    async def _load_on_worker(self, model: PlacedModel, *, again: bool = False) -> None:
        assert model.group
        assert model.path
        model.require_loading()
        try:
            if again:
                await model.prepare()
                model.require_loading()
            parts = await model.load()
        except WorkerLoadError as error:
            raise ApiError(LOAD_STATUS.get(error.code, 503), error.code, error.message) from error
        model.require_loading()
        model.take(parts)
        model.state = "loaded"
        model.reloads = 0
        model.is_resident = True
        model.settled.set()
        log.info(
            "model loaded",
            extra={
                "model": model.id,
                "workers": [worker.name for worker in model.group.workers],
                "memory_mb": [part.memory_mb for part in parts],
            },
        )
        self._changed(True)

    def _set_failed(self, model: PlacedModel, code: str, message: str) -> None:
        model.state = "failed"
        model.error = ModelFailure(code=code, message=message)
        model.settled.set()
        log.error("model failed", extra={"model": model.id, "code": code, "reason": message})
        self._changed(True)

    # --- unload and restart ---------------------------------------------------------------------------

    async def unload(self, model_id: str, leave: Leave) -> None:
        model = self._models.get(model_id)
        if model is None:
            raise not_loaded(model_id, param="model_id")
        if model.state == "unloading":
            if leave.force:  # the one that does not wait decides
                model.leaving = leave
            await model.settled.wait()
            return
        whole = self._with_adapters(model)
        if model.state == "loaded":
            await self._drain([each for each in whole if each.state == "loaded"], "unloading", leave)
        was_failed = model.state == "failed"
        keeps = leave.keep == "host" and model.loaded is not None and model.base is None
        for each in whole:
            each.state = "unloading"
            each.settled.clear()
        self._changed(True)
        host_mb = None if was_failed else await model.unload(keep=keeps, priority=leave.priority)
        for adapter in whole[1:]:  # its workers have dropped them with it
            self._forget(adapter)
        if host_mb is None:
            self._forget(model)
        else:
            self._set_asleep(model, host_mb)

    def _with_adapters(self, model: PlacedModel) -> Sequence[PlacedModel]:
        return [model, *(other for other in self._models.values() if other.base is model)]

    def _set_asleep(self, model: PlacedModel, host_mb: int) -> None:
        model.state = "asleep"
        model.host_mb = host_mb
        model.is_resident = False
        model.leaving = None
        model.settled.set()
        log.info("model fell asleep", extra={"model": model.id, "host_mb": host_mb})
        self._changed(True)

    def _forget(self, model: PlacedModel) -> None:
        if self._models.get(model.id) is model:
            del self._models[model.id]
        model.settled.set()
        log.info("model unloaded", extra={"model": model.id})
        self._changed(True)

    async def reset_cache(self, model_id: str) -> None:
        await self.local_model(model_id).worker.reset_cache(model_id)

    async def restart_device(self, index: int, leave: Leave) -> None:
        worker = next(worker for worker in self._workers if worker.device.index == index)
        residents = [model for model in self._models.values() if model.is_on(worker)]
        await self._drain([model for model in residents if model.state == "loaded"], "loading", leave)
        try:
            await worker.restart()
        except WorkerLoadError as error:
            raise ApiError(503, error.code, error.message) from error
        for model in residents:
            await model.settled.wait()

    async def _drain(self, models: Sequence[PlacedModel], state: ModelState, leave: Leave) -> None:
        """Admit no new request to the models, which get `state`, and let those under way end.

        Raises `ApiError` 409 when some remain after the grace and are not to be ended; the models then stay.
        """
        for model in models:
            model.state = state
            model.leaving = leave
            model.settled.clear()
        self._changed(True)
        started = time.monotonic()
        while busy := [model for model in models if model.is_busy]:
            current = busy[0].leaving or leave
            if time.monotonic() - started < current.grace_s:
                await asyncio.sleep(POLL_S)
            elif current.force:
                return
            else:
                self._keep(models)
                names = ", ".join(repr(model.id) for model in busy)
                message = (
                    f"After {current.grace_s:g} s {names} still had requests under way; force ends them."
                )
                raise ApiError(409, "model_busy", message, retry_after_s=RETRY_AFTER_S)

    def _keep(self, models: Sequence[PlacedModel]) -> None:
        for model in models:
            model.state = "loaded"
            model.leaving = None
            model.settled.set()
        self._changed(True)

    # --- what workers tell ----------------------------------------------------------------------------

    def changed(self, *, urgent: bool) -> None:
        self._changed(urgent)

    def model_dropped(self, worker: DeviceWorker, model_id: str) -> None:
        model = self._models.get(model_id)
        if model and model.is_on(worker) and model.state == "asleep":
            self._forget_asleep(model)

    def worker_lost(self, worker: DeviceWorker) -> None:
        for model in list(self._models.values()):
            if model.is_on(worker) and model.state == "asleep":
                self._forget_asleep(model)
            elif model.is_on(worker):
                self._lose(model, f"{worker.name} went away ({worker.reason})")

    def group_lost(self, worker: DeviceWorker, lost: pipe.GroupLost) -> None:
        model = self._models.get(lost.model)
        if model is None or model.group is None or not model.is_on(worker) or model.state != "loaded":
            return
        log.error("group lost", extra={"model": model.id, "reason": lost.message})
        model.group.end_silent()
        for each in (whole := self._with_adapters(model)):
            self._lose(each, lost.message)
        self._start(self._reload(whole), f"reload {model.id}")
        self._changed(True)

    def _forget_asleep(self, model: PlacedModel) -> None:
        """Forget a model that no longer sleeps on one of its devices, and so needs not on others."""
        self._forget(model)
        if model.group:
            self._start(self._end_sleep(model, model.group), f"end the sleep of {model.id}")

    async def _end_sleep(self, model: PlacedModel, group: DeviceGroup) -> None:
        if model.id not in self._models:  # else it is loaded anew, which ends the sleep as well
            await group.unload(model.id)

    def _lose(self, model: PlacedModel, reason: str) -> None:
        """Note that a model is gone from its devices, or from one of them, which is as much."""
        if model.group:
            model.group.abort(reason)
        if model.state == "loaded":
            model.state = "loading"
            model.parts = ()
            model.settled.clear()

    def worker_ready(self, worker: DeviceWorker) -> None:
        lost = [model for model in self._models.values() if model.is_on(worker) and model.is_resident]
        self._start(self._reload(lost), f"reload {worker.name}")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self, models: Sequence[PlacedModel]) -> None:
        """Load models again that were lost, one after the other."""
        for model in models:
            if model.state == "loading" and not model.is_reloading:
                model.is_reloading = True
                try:
                    await self._reload_one(model)
                finally:
                    model.is_reloading = False

    async def _reload_one(self, model: PlacedModel) -> None:
        while model.state == "loading":
            if model.base:  # another worker's return may have begun its load
                await model.base.settled.wait()
            model.reloads += 1
            try:
                await self._load_on_worker(model, again=True)
            except ApiError as error:
                is_lost = error.code in {"worker_lost", "group_failed"}
                is_lost |= model.base is not None and model.base.state == "loading"
                if model.state == "loading" and not (is_lost and self._may_reload(model)):
                    self._set_failed(model, error.code, error.message)

    def _may_reload(self, model: PlacedModel) -> bool:
        return model.reloads < self._config.restart.max_reloads

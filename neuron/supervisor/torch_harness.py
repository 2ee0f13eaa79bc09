"""The `torch` harness: places models on device workers and loads them again when a worker was replaced.

A model is loading → loaded → unloading, or failed. A load that kills its worker is a failed load and is not
tried again; a model that was loaded when its worker died goes back to loading and is loaded again as soon as
the worker is ready, `restart.max_reloads` times at most.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

from neuron import sources
from neuron.harness import HarnessContext, HarnessHealth
from neuron.model_texts import read_text
from neuron.models.checkpoint import ModelLoadError, load_warnings
from neuron.supervisor.device_choice import allowed_workers, freest
from neuron.supervisor.device_worker import DeviceWorker
from neuron.supervisor.pending import WorkerLoadError
from neuron.supervisor.placed_model import RETRY_AFTER_S, PlacedModel, TorchModel, not_loaded
from neuron.text.directory import BrokenModelError, FitTemplate, TextSettings
from neuron.text.rendering import TemplateRefusal
from neuron.text.traits.fitted_template import FittedTemplate
from neuron.wire import ApiError, Leave, ModelFailure, ModelInfo, ModelLoad, ModelSpec, ModelState

log = logging.getLogger("neuron.models")

WORKER = (sys.executable, "-m", "neuron.worker")
LOAD_STATUS = {"model_not_found": 404, "model_unsupported": 422, "model_broken": 422}  # others: 503
POLL_S = 0.05  # between two looks at whether a model's requests have ended
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

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for worker in self._workers:
                    group.create_task(worker.run(), name=worker.name)
        finally:
            for task in self._reloads:
                task.cancel()

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

    # --- load -----------------------------------------------------------------------------------------

    async def load(self, spec: ModelSpec) -> None:
        allowed = allowed_workers(spec, self._workers)
        while (model := self._models.get(spec.model_id)) and model.state in {"loading", "unloading"}:
            await model.settled.wait()
        if model and model.state == "loaded":
            model.require_same(spec)
            return
        model = self._models[spec.model_id] = PlacedModel(spec)
        self._changed(True)
        try:
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

    async def _place(self, model: PlacedModel, workers: Sequence[DeviceWorker]) -> None:
        model.path, model.quant = await sources.find(model.source, self._config.models_dir, model.spec.quant)
        model.warnings = load_warnings(model.path)
        try:
            spec = model.spec
            settings = TextSettings(spec.chat_template, spec.tool_format, spec.reasoning_format)
            model.text = await asyncio.to_thread(read_text, model.path, settings, self._fit_from_thread())
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
        model.worker = await freest(workers)

    def _fit_from_thread(self) -> FitTemplate:
        """A function for a thread that reads a model: templates are probed where they can be killed."""
        loop = asyncio.get_running_loop()

        def fit(*template: Any) -> FittedTemplate | TemplateRefusal:
            return asyncio.run_coroutine_threadsafe(self._templates.fit(*template), loop).result()

        return fit

    async def _load_on_worker(self, model: PlacedModel) -> None:
        assert model.worker
        assert model.path
        model.require_loading()
        try:
            loaded = await model.worker.load(model.id, str(model.path), model.quant, model.spec.kv_dtype)
        except WorkerLoadError as error:
            raise ApiError(LOAD_STATUS.get(error.code, 503), error.code, error.message) from error
        model.require_loading()
        model.loaded = loaded
        model.state = "loaded"
        model.reloads = 0
        model.is_resident = True
        model.settled.set()
        log.info(
            "model loaded",
            extra={"model": model.id, "worker": model.worker.name, "memory_mb": loaded.memory_mb},
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
        if model.state == "loaded":
            await self._drain([model], "unloading", leave)
        was_failed = model.state == "failed"
        model.state = "unloading"
        model.settled.clear()
        self._changed(True)
        if model.worker and not was_failed:
            await model.worker.unload(model_id)
        self._forget(model)

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
        residents = [model for model in self._models.values() if model.worker is worker]
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

    def worker_lost(self, worker: DeviceWorker) -> None:
        for model in self._models.values():
            if model.worker is worker and model.state == "loaded":
                model.state = "loading"
                model.loaded = None
                model.settled.clear()

    def worker_ready(self, worker: DeviceWorker) -> None:
        task = asyncio.create_task(self._reload(worker), name=f"reload {worker.name}")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self, worker: DeviceWorker) -> None:
        """Load the models again that the worker's last process had."""
        for model in list(self._models.values()):
            if model.worker is worker and model.is_resident and model.state == "loading":
                await self._reload_one(model)

    async def _reload_one(self, model: PlacedModel) -> None:
        model.reloads += 1
        try:
            await self._load_on_worker(model)
        except ApiError as error:
            may_retry = error.code == "worker_lost" and model.reloads < self._config.restart.max_reloads
            if model.state == "loading" and not may_retry:
                self._set_failed(model, error.code, error.message)

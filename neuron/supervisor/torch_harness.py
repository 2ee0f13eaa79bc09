"""The `torch` harness: places models on device workers and brings them back when a worker was replaced.

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
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from neuron import pipe, sources
from neuron.generation import Generation
from neuron.harness import HarnessContext, HarnessHealth
from neuron.supervisor.device_worker import DeviceWorker, WorkerLoadError
from neuron.text.directory import BrokenModelError, read_model_text
from neuron.text.model_text import ModelText
from neuron.text.notations.known import NOTATIONS
from neuron.wire import (
    ApiError,
    Leave,
    ModelFailure,
    ModelInfo,
    ModelLoad,
    ModelSpec,
    ModelState,
)

log = logging.getLogger("neuron.models")

WORKER = (sys.executable, "-m", "neuron.worker")
LOAD_STATUS = {"model_not_found": 404, "model_unsupported": 422, "model_broken": 422}  # others: 503
LOADING_RETRY_S = 2
LOOK_EVERY_S = 0.05  # whether the requests of a model that has to go have ended


@dataclass(slots=True)
class _Model:
    """One model in whatever state; `path`, `text` and `worker` are known once it was placed."""

    spec: ModelSpec
    state: ModelState = "loading"
    path: Path | None = None
    text: ModelText | None = None
    worker: DeviceWorker | None = None
    loaded: pipe.Loaded | None = None
    error: ModelFailure | None = None
    is_resident: bool = False  # was loaded once: to be brought back when its worker is replaced
    reloads: int = 0
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # loaded, failed or gone
    leaving: Leave | None = None  # while it waits for its requests before it goes

    @property
    def source(self) -> str:
        return self.spec.source or self.spec.model_id


@dataclass(frozen=True, slots=True)
class TorchModel:
    """What the inference API works with; see `neuron.harness.LocalModel`."""

    id: str
    text: ModelText
    context: int
    worker: DeviceWorker
    max_unread_tokens: int
    capabilities: set[str]
    dimensions: int | None = None  # of its embeddings
    sight: pipe.Sight | None = None
    max_images: int = 0

    async def look(self, images: list[bytes]) -> pipe.Looked:
        return await self.worker.look(self.id, images)

    async def embed(self, inputs: list[list[int]]) -> bytes:
        return await self.worker.embed(self.id, inputs)

    def submit(self, submit: pipe.Submit) -> Generation:
        return self.worker.submit(submit, max_unread=self.max_unread_tokens)


class TorchHarness:
    name = "torch"

    def __init__(
        self,
        context: HarnessContext,
        *,
        worker_command: Sequence[str] = WORKER,
    ) -> None:
        self._config = context.config
        self._url = context.url
        self._changed = context.changed
        command = [*worker_command, *context.config.worker_flags]
        self._workers = [
            DeviceWorker(device, command, restart=context.config.restart, owner=self)
            for device in context.devices
        ]
        self._models: dict[str, _Model] = {}
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
        busy = [
            ModelLoad(id=status.model, **{name: getattr(status, name) for name in _LOAD_FIELDS})
            for worker in self._workers
            for status in (worker.status.models if worker.status else ())
        ]
        return HarnessHealth([worker.health() for worker in self._workers], busy)

    def list(self) -> list[ModelInfo]:
        return [_describe(model) for model in self._models.values()]

    def endpoint(self, model_id: str) -> str:
        self.local_model(model_id)
        return self._url

    def local_model(self, model_id: str) -> TorchModel:
        model = self._models.get(model_id)
        if model is not None and model.state == "loading":
            raise ApiError(
                503, "model_loading", f"The model {model_id!r} is loading.", retry_after_s=LOADING_RETRY_S
            )
        if model is None or model.state != "loaded":
            raise ApiError(404, "model_not_found", f"The model {model_id!r} is not loaded.", param="model")
        assert model.text
        assert model.worker
        assert model.loaded
        return TorchModel(
            model_id,
            model.text,
            model.loaded.context,
            model.worker,
            self._config.stream.max_unread_tokens,
            set(_capabilities(model)),
            dimensions=model.loaded.dimensions,
            sight=model.loaded.sight,
            max_images=self._config.max_images,
        )

    # --- load and unload ------------------------------------------------------------------------------

    async def load(self, spec: ModelSpec) -> None:
        candidates = self._candidates(spec)
        while (model := self._models.get(spec.model_id)) and model.state in {"loading", "unloading"}:
            await model.settled.wait()
        if model and model.state == "loaded":
            _require_same_source(model, spec)
            return
        model = self._models[spec.model_id] = _Model(spec)
        self._changed(True)
        try:
            await self._place(model, candidates)
            await self._load_on_worker(model)
        except ApiError as error:
            if model.state == "loading":
                self._set_failed(model, error.code, error.message)
            raise

    async def _place(self, model: _Model, candidates: Sequence[DeviceWorker]) -> None:
        model.path = await sources.find(model.source, self._config.models_dir)
        try:
            model.text = await asyncio.to_thread(read_model_text, model.path, model.spec.tool_format)
        except BrokenModelError as error:
            raise ApiError(422, "model_broken", str(error)) from error
        model.worker = await self._freest(candidates)

    async def _load_on_worker(self, model: _Model) -> None:
        assert model.worker
        assert model.path
        _require_wanted(model)
        try:
            loaded = await model.worker.load(model.spec.model_id, str(model.path))
        except WorkerLoadError as error:
            raise ApiError(LOAD_STATUS.get(error.code, 503), error.code, error.message) from error
        _require_wanted(model)
        model.loaded, model.state, model.reloads = loaded, "loaded", 0
        model.is_resident = True
        model.settled.set()
        log.info(
            "model loaded",
            extra={"model": model.spec.model_id, "worker": model.worker.name, "memory_mb": loaded.memory_mb},
        )
        self._changed(True)

    async def unload(self, model_id: str, leave: Leave) -> None:
        model = self._models.get(model_id)
        if model is None:
            raise ApiError(404, "model_not_found", f"The model {model_id!r} is not loaded.", param="model_id")
        if model.state == "unloading":
            model.leaving = leave if leave.force else model.leaving  # whoever will not wait has the last word
            await model.settled.wait()
            return
        if model.state == "loaded":
            await self._let_go([model], "unloading", leave)
        was_failed, model.state = model.state == "failed", "unloading"
        model.settled.clear()
        self._changed(True)
        if model.worker and not was_failed:
            await model.worker.unload(model_id)
        self._forget(model)

    async def reset_cache(self, model_id: str) -> None:
        await self.local_model(model_id).worker.reset_cache(model_id)

    async def restart_device(self, index: int, leave: Leave) -> None:
        """A new worker process; what was resident is loaded again. Raises `ApiError`."""
        worker = next(worker for worker in self._workers if worker.device.index == index)
        residents = [model for model in self._models.values() if model.worker is worker]
        await self._let_go([model for model in residents if model.state == "loaded"], "loading", leave)
        try:
            await worker.restart()
        except WorkerLoadError as error:
            raise ApiError(503, error.code, error.message) from error
        for model in residents:
            await model.settled.wait()

    async def _let_go(self, models: Sequence[_Model], state: ModelState, leave: Leave) -> None:
        """Let no new request in, and those under way end. Raises `ApiError` 409 when they do not in time."""
        for model in models:
            model.state, model.leaving = state, leave
            model.settled.clear()
        self._changed(True)
        started = time.monotonic()
        while busy := [
            model for model in models if model.worker and model.worker.is_busy(model.spec.model_id)
        ]:
            wish = busy[0].leaving or leave
            if time.monotonic() - started < wish.grace_s:
                await asyncio.sleep(LOOK_EVERY_S)
            elif wish.force:
                return
            else:
                self._keep(models)
                names = ", ".join(repr(model.spec.model_id) for model in busy)
                message = f"After {wish.grace_s:g} s {names} still had requests under way; force ends them."
                raise ApiError(409, "model_busy", message, retry_after_s=LOADING_RETRY_S)

    def _keep(self, models: Sequence[_Model]) -> None:
        """They stay after all."""
        for model in models:
            model.state, model.leaving = "loaded", None
            model.settled.set()
        self._changed(True)

    def _forget(self, model: _Model) -> None:
        if self._models.get(model.spec.model_id) is model:
            del self._models[model.spec.model_id]
        model.settled.set()
        log.info("model unloaded", extra={"model": model.spec.model_id})
        self._changed(True)

    def _set_failed(self, model: _Model, code: str, message: str) -> None:
        model.state, model.error = "failed", ModelFailure(code=code, message=message)
        model.settled.set()
        log.error("model failed", extra={"model": model.spec.model_id, "code": code, "reason": message})
        self._changed(True)

    def _candidates(self, spec: ModelSpec) -> Sequence[DeviceWorker]:
        if spec.quant:
            raise ApiError(400, "unsupported_parameter", "quant is not supported yet.", param="quant")
        if spec.tool_format not in {None, *NOTATIONS}:
            message = f"tool_format: {spec.tool_format!r} is none of {', '.join(NOTATIONS)}."
            raise ApiError(400, "invalid_request_body", message, param="tool_format")
        if spec.devices is None:
            return self._workers
        known = {worker.device.index: worker for worker in self._workers}
        if len(spec.devices) != 1:
            message = f"devices must name one device; a model runs on one of {sorted(known)}."
            raise ApiError(400, "unsupported_parameter", message, param="devices")
        if unknown := [index for index in spec.devices if index not in known]:
            message = f"There is no device {unknown[0]}; this neuron has {sorted(known)}."
            raise ApiError(400, "unknown_device", message, param="devices")
        return [known[index] for index in spec.devices]

    async def _freest(self, candidates: Sequence[DeviceWorker]) -> DeviceWorker:
        alive = [worker for worker in candidates if worker.state != "failed"]
        if not alive:
            reasons = "; ".join(f"{worker.name}: {worker.reason}" for worker in candidates)
            raise ApiError(503, "device_failed", f"No device can be used ({reasons}).")
        free_mb = await asyncio.gather(*map(_free_mb, alive))
        best = max(zip(free_mb, alive, strict=True), key=itemgetter(0))[1]
        try:
            await best.wait_ready()
        except WorkerLoadError as error:
            raise ApiError(503, error.code, error.message) from error
        return best

    # --- what workers tell ----------------------------------------------------------------------------

    def changed(self, *, urgent: bool) -> None:
        self._changed(urgent)

    def worker_lost(self, worker: DeviceWorker) -> None:
        for model in self._models.values():
            if model.worker is worker and model.state == "loaded":
                model.state, model.loaded = "loading", None
                model.settled.clear()

    def worker_ready(self, worker: DeviceWorker) -> None:
        task = asyncio.create_task(self._reload(worker), name=f"reload {worker.name}")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self, worker: DeviceWorker) -> None:
        """Load again what the worker's predecessor had."""
        for model in list(self._models.values()):
            if model.worker is worker and model.is_resident and model.state == "loading":
                await self._reload_one(model)

    async def _reload_one(self, model: _Model) -> None:
        model.reloads += 1
        try:
            await self._load_on_worker(model)
        except ApiError as error:
            is_worth_another = (
                error.code == "worker_lost" and model.reloads < self._config.restart.max_reloads
            )
            if model.state == "loading" and not is_worth_another:
                self._set_failed(model, error.code, error.message)


async def _free_mb(worker: DeviceWorker) -> int:
    """What is free now; less than nothing where the worker cannot say."""
    try:
        return (await worker.memory()).free_mb if worker.state == "ready" else -1
    except ApiError:
        return -1


_LOAD_FIELDS = tuple(name for name in ModelLoad.model_fields if name != "id")


def _capabilities(model: _Model) -> list[str]:
    if model.loaded and model.loaded.dimensions is not None:
        return ["embeddings"]
    sees = model.loaded is not None and model.loaded.sight is not None
    return [*(model.text.capabilities if model.text else ()), *(["vision"] if sees else ())]


def _describe(model: _Model) -> ModelInfo:
    loaded = model.loaded
    return ModelInfo(
        id=model.spec.model_id,
        source=model.source,
        harness=TorchHarness.name,
        state=model.state,
        devices=[model.worker.device.index] if model.worker else [],
        memory_mb=loaded.memory_mb if loaded else None,
        needed_mb=loaded.needed_mb if loaded else None,
        context=loaded.context if loaded else None,
        progress=model.worker.progress.get(model.spec.model_id) if model.worker else None,
        capabilities=_capabilities(model),
        error=model.error,
    )


def _require_same_source(model: _Model, spec: ModelSpec) -> None:
    if spec.source and spec.source != model.source:
        message = f"{spec.model_id!r} is loaded from {model.source!r}; unload it first."
        raise ApiError(409, "model_exists", message, param="source")


def _require_wanted(model: _Model) -> None:
    if model.state != "loading":
        raise ApiError(409, "model_unloaded", f"{model.spec.model_id!r} was unloaded while it was loading.")

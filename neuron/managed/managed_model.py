"""One model of a managed engine, from its load to its unload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuron.config import ManagedEngineSettings
from neuron.harness import RelayedAnswer
from neuron.managed.engine import Engine
from neuron.managed.log import ServerLog
from neuron.managed.server import EngineServer
from neuron.wire import ApiError, DeviceInfo, ModelFailure, ModelInfo, ModelLoad, ModelSpec, ModelState

RETRY_AFTER_S = 2  # while a model loads or is full


@dataclass(slots=True)
class ManagedModel:
    """A model in whatever state. `server` is there from its start to its end, asleep as well."""

    spec: ModelSpec
    engine: Engine
    devices: Sequence[DeviceInfo]
    path: Path
    log: ServerLog
    state: ModelState = "loading"
    server: EngineServer | None = None
    keeper: asyncio.Task[None] | None = None  # starts the server, watches it and starts it again
    error: ModelFailure | None = None
    held_mb: Mapping[int, int] = field(default_factory=dict)  # by device
    context: int | None = None
    progress: float | None = None
    restarts: int = 0  # since it last stayed up
    was_loaded: bool = False
    in_flight: int = 0
    refused: int = 0
    load_s: float | None = None
    wake_s: float | None = None
    host_mb: int | None = None  # while it is asleep
    asleep_since: float = 0.0  # `time.monotonic` seconds
    asleep_priority: int = 0  # of those that are asleep, the lowest ends first
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # set when loaded, asleep, failed or gone
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set while no request is under way

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def id(self) -> str:
        return self.spec.model_id

    @property
    def source(self) -> str:
        return self.spec.source or self.spec.model_id

    def become(self, state: ModelState) -> None:
        """Enter a state; whoever waits for the model to settle goes on."""
        self.state = state
        if state in {"loaded", "asleep", "failed"}:
            self.progress = None
            self.settled.set()
        else:
            self.settled.clear()

    def begin(self) -> None:
        """Count a request, until `finish`."""
        self.in_flight += 1
        self.idle.clear()

    def finish(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()

    def info(self) -> ModelInfo:
        each = [self.held_mb.get(device.index, 0) for device in self.devices]
        is_measured = self.state == "loaded" and any(each)
        return ModelInfo(
            id=self.id,
            source=self.source,
            harness=self.engine.name,
            state=self.state,
            devices=[device.index for device in self.devices],
            memory_mb=sum(each) if is_measured else None,
            device_memory_mb=each if is_measured else [],
            needed_mb=max(each) * len(each) if is_measured else None,
            format=self.spec.quant or "",
            context=self.context,
            progress=self.progress,
            host_mb=self.host_mb if self.state == "asleep" else None,
            load_s=self.load_s,
            wake_s=self.wake_s,
            error=self.error,
        )

    def load_now(self, settings: ManagedEngineSettings) -> ModelLoad:
        return ModelLoad(
            id=self.id, running=self.in_flight, max_running=settings.max_requests, rejected=self.refused
        )

    def require_loaded(self) -> None:
        """Raise `ApiError` unless it answers requests now."""
        if self.state == "loading":
            message = f"The model {self.id!r} is loading."
            raise ApiError(503, "model_loading", message, retry_after_s=RETRY_AFTER_S)
        if self.state != "loaded":
            raise not_loaded(self.id)

    def require_same(self, spec: ModelSpec) -> None:
        """Raise `ApiError` 409 when `spec` asks for another source or quant under this model's name."""
        asked = {"source": spec.source or self.source, "quant": spec.quant or self.spec.quant}
        for param, has in {"source": self.source, "quant": self.spec.quant}.items():
            if asked[param] != has:
                message = f"{self.id!r} is loaded with {param} {has!r}; unload it first."
                raise ApiError(409, "model_exists", message, param=param)


def not_loaded(model_id: str, param: str = "model") -> ApiError:
    return ApiError(404, "model_not_found", f"The model {model_id!r} is not loaded.", param=param)


class EngineModel:
    """A loaded model for the API: see `neuron.harness.RelayedModel`."""

    def __init__(self, model: ManagedModel, max_requests: int) -> None:
        self._model = model
        self._max_requests = max_requests
        self.id = model.id
        self.paths: Collection[str] = model.engine.paths

    async def ask(self, path: str, body: bytes, request_id: str) -> RelayedAnswer:
        model = self._model
        model.require_loaded()
        if model.in_flight >= self._max_requests:
            model.refused += 1
            message = f"{model.id!r} has {model.in_flight} requests under way."
            raise ApiError(503, "queue_full", message, retry_after_s=RETRY_AFTER_S)
        assert model.server
        model.begin()
        try:
            answer = await model.server.upstream.ask(path, body, request_id)
        except BaseException:
            model.finish()
            raise
        return CountedAnswer(answer, model)


class CountedAnswer:
    """An answer that counts as a request under way until it is closed."""

    def __init__(self, answer: RelayedAnswer, model: ManagedModel) -> None:
        self._answer = answer
        self._model: ManagedModel | None = model
        self.status = answer.status
        self.content_type = answer.content_type

    def chunks(self) -> AsyncGenerator[bytes]:
        return self._answer.chunks()

    async def close(self) -> None:
        if self._model is not None:
            self._model.finish()
            self._model = None
            await self._answer.close()


def by_worth(models: Sequence[ManagedModel]) -> list[ManagedModel]:
    """Those that are asleep: the lowest priority first, and of one priority the one that is for longest."""
    asleep = [model for model in models if model.state == "asleep"]
    return sorted(asleep, key=lambda model: (model.asleep_priority, model.asleep_since))

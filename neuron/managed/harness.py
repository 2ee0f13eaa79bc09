"""The harness of a managed engine: a server process for each model, kept by the row that describes it.

A model is loading → loaded → asleep or unloading, or failed. A server that ends is started again after a
growing delay, `restart.max_reloads` times in a row at most; a first start that fails is a failed load.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from contextlib import suppress

from neuron.config import ManagedEngineSettings
from neuron.harness import HarnessContext, HarnessHealth
from neuron.managed.choosing import chosen_devices, found_files
from neuron.managed.command import Launch, LaunchPlace, check_spec, launch
from neuron.managed.engine import Engine
from neuron.managed.known import PORT_TAKEN
from neuron.managed.log import ServerLog
from neuron.managed.managed_model import (
    RETRY_AFTER_S,
    EngineModel,
    ManagedModel,
    by_worth,
    not_loaded,
)
from neuron.managed.server import EngineServer, EngineStartError
from neuron.managed.upstream import settle
from neuron.wire import ApiError, Leave, ModelFailure, ModelInfo, ModelSpec

log = logging.getLogger("neuron.managed")

PORT_TRIES = 3
STATUSES = {"model_not_found": 404, "model_unsupported": 422}  # of failed loads; others: 503


class ManagedHarness:
    """See `neuron.harness.Harness`; `engine` is what it runs."""

    def __init__(self, context: HarnessContext, engine: Engine, settings: ManagedEngineSettings) -> None:
        self.name = engine.name
        self._engine = engine
        self._settings = settings
        self._config = context.config
        self._devices = context.devices
        self._memory = context.memory
        self._url = context.url
        self._changed = context.changed
        self._models: dict[str, ManagedModel] = {}

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.gather(*map(self._stop, self._models.values()))

    # --- what others ask ------------------------------------------------------------------------------

    def health(self) -> HarnessHealth:
        loaded = [model for model in self._models.values() if model.state == "loaded"]
        return HarnessHealth([], [model.load_now(self._settings) for model in loaded])

    def list(self) -> list[ModelInfo]:
        return [model.info() for model in self._models.values()]

    def endpoint(self, model_id: str) -> str:
        self._find(model_id).require_loaded()
        return self._url

    def local_model(self, model_id: str) -> None:
        self._find(model_id).require_loaded()

    def relayed_model(self, model_id: str) -> EngineModel:
        model = self._find(model_id)
        model.require_loaded()
        return EngineModel(model, self._settings.max_requests)

    def log(self, model_id: str) -> Sequence[str]:
        return self._find(model_id).log.lines

    def _find(self, model_id: str, param: str = "model") -> ManagedModel:
        model = self._models.get(model_id)
        if model is None:
            raise not_loaded(model_id, param)
        return model

    # --- load -----------------------------------------------------------------------------------------

    async def load(self, spec: ModelSpec) -> None:
        devices = chosen_devices(spec, self._devices, self._memory)
        check_spec(self._engine, self._settings, spec, devices)
        while (model := self._models.get(spec.model_id)) and model.state in {"loading", "unloading"}:
            await model.settled.wait()
        if model and model.state == "loaded":
            model.require_same(spec)
            return
        if model and model.state == "asleep":
            if model.spec == spec and await self._wake(model):
                return
            await self._remove(model)
        path = await found_files(spec, self._engine, self._config.models_dir)
        output = ServerLog(self._settings.log_lines)
        model = self._models[spec.model_id] = ManagedModel(spec, self._engine, devices, path, output)
        model.keeper = asyncio.create_task(self._keep(model), name=f"keep {model.id}")
        self._changed(True)
        await model.settled.wait()
        if self._models.get(model.id) is not model:
            raise ApiError(409, "model_unloaded", f"{model.id!r} was unloaded while it was loading.")
        if model.error:
            raise ApiError(STATUSES.get(model.error.code, 503), model.error.code, model.error.message)

    # --- a server's life ------------------------------------------------------------------------------

    async def _keep(self, model: ManagedModel) -> None:
        """Start the server and start it again until it fails for good."""
        try:
            await self._run_server(model)
        except Exception as error:
            log.exception("server cannot be kept", extra={"model": model.id})
            await self._end(model)
            what = f"the load ended by {type(error).__name__}: {error}"
            self._set_failed(model, EngineStartError("internal_error", what))

    async def _run_server(self, model: ManagedModel) -> None:
        restart = self._config.restart
        delay_s = restart.first_delay_s
        while True:
            lived_s, why = await self._run_once(model)
            if lived_s >= restart.stable_after_s:
                model.restarts = 0
                delay_s = restart.first_delay_s
            model.log.note(f"neuron: the server has to go: {why.message}")
            await self._end(model)
            if model.state in {"asleep", "unloading"}:
                self._forget(model)
                return
            model.restarts += 1
            if not model.was_loaded or model.restarts > restart.max_reloads:
                self._set_failed(model, why)
                return
            log.error("server ended", extra={"model": model.id, "reason": why.message, "delay_s": delay_s})
            model.become("loading")
            self._changed(True)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, restart.max_delay_s)

    async def _run_once(self, model: ManagedModel) -> tuple[float, EngineStartError]:
        """How long a server was up, in seconds, and why it is not any more."""
        try:
            server = await self._start(model)
        except EngineStartError as error:
            return 0.0, error
        started = time.monotonic()
        reason = await server.watch(lambda: self._measure(model))
        why = EngineStartError("engine_failed", f"The server ended ({reason}).")
        return time.monotonic() - started, why

    async def _start(self, model: ManagedModel) -> EngineServer:
        """The model's server, ready; another port is tried where one was taken. Raises `EngineStartError`."""
        for attempt in range(PORT_TRIES):
            started = time.monotonic()
            model.server = server = self._server(model)
            try:
                await server.start()
                break
            except EngineStartError as error:
                if error.code != PORT_TAKEN or attempt + 1 == PORT_TRIES:
                    raise
                await server.end()
        model.context = await server.upstream.context(self._engine.context)
        model.load_s = round(time.monotonic() - started, 3)
        model.was_loaded = True
        self._measure(model)
        model.become("loaded")
        log.info("model loaded", extra={"model": model.id, "memory_mb": sum(model.held_mb.values())})
        self._changed(True)
        return server

    def _server(self, model: ManagedModel) -> EngineServer:
        return EngineServer(
            self._engine,
            self._launch(model),
            model.log,
            settings=self._settings,
            restart=self._config.restart,
            progressed=lambda fraction: self._show_progress(model, fraction),
        )

    def _launch(self, model: ManagedModel) -> Launch:
        place = LaunchPlace(model.path, model.devices, _free_port())
        return launch(self._engine, self._settings, model.spec, place, sleeps=self._may_sleep(model))

    def _show_progress(self, model: ManagedModel, fraction: float) -> None:
        model.progress = fraction
        self._changed(False)

    def _measure(self, model: ManagedModel) -> None:
        if model.server:
            devices = [device.index for device in model.devices]
            model.held_mb = self._memory.held_mb(model.server.pids, devices)

    def _set_failed(self, model: ManagedModel, error: EngineStartError) -> None:
        model.error = ModelFailure(code=error.code, message=error.message)
        model.become("failed")
        log.error("model failed", extra={"model": model.id, "code": error.code, "reason": error.message})
        self._changed(True)

    async def _end(self, model: ManagedModel) -> None:
        if model.server:
            await model.server.end()
            model.server = None

    async def _stop(self, model: ManagedModel) -> None:
        """End whatever keeps the model, then its server."""
        if model.keeper:
            await settle(model.keeper)
        await self._end(model)

    # --- unload and sleep -----------------------------------------------------------------------------

    async def unload(self, model_id: str, leave: Leave) -> None:
        model = self._find(model_id, param="model_id")
        if model.state == "unloading":
            await model.settled.wait()
            return
        if model.state == "loaded":
            await self._drain(model, leave)
            if (
                leave.keep == "host"
                and self._may_sleep(model)
                and await self._fall_asleep(model, leave.priority)
            ):
                return
        await self._remove(model)

    async def _drain(self, model: ManagedModel, leave: Leave) -> None:
        """Admit no new request and let those under way end; the rest ends with the server.

        Raises `ApiError` 409 when some remain after the grace and are not to be ended; the model then stays.
        """
        model.become("unloading")
        self._changed(True)
        with suppress(TimeoutError):
            await asyncio.wait_for(model.idle.wait(), leave.grace_s)
        if model.in_flight and not leave.force and model.state == "unloading":
            model.become("loaded")
            self._changed(True)
            message = f"After {leave.grace_s:g} s {model.id!r} still had requests under way; force ends them."
            raise ApiError(409, "model_busy", message, retry_after_s=RETRY_AFTER_S)

    async def _remove(self, model: ManagedModel) -> None:
        model.become("unloading")
        self._changed(True)
        await self._stop(model)
        self._forget(model)

    def _forget(self, model: ManagedModel) -> None:
        if self._models.get(model.id) is model:
            del self._models[model.id]
            log.info("model unloaded", extra={"model": model.id})
        model.settled.set()
        self._changed(True)

    def _may_sleep(self, model: ManagedModel) -> bool:
        """Whether its engine can sleep, and gains by it: a CPU's memory is the host's."""
        on_gpu = all(device.kind == "cuda" for device in model.devices)
        return on_gpu and self._engine.sleep is not None and self._settings.max_asleep > 0

    async def _fall_asleep(self, model: ManagedModel, priority: int) -> bool:
        """Whether the server gave its memory back; those of the least worth make room for it."""
        if model.server is None or model.state != "unloading":  # its server ended meanwhile
            return False
        try:
            await model.server.sleep()
        except ApiError as error:
            log.warning("cannot sleep", extra={"model": model.id, "reason": error.message})
            return False
        model.held_mb = {}
        model.host_mb = model.server.host_mb
        model.asleep_since = time.monotonic()
        model.asleep_priority = priority
        model.become("asleep")
        self._changed(True)
        for surplus in by_worth(list(self._models.values()))[: -self._settings.max_asleep]:
            await self._remove(surplus)
        return True

    async def _wake(self, model: ManagedModel) -> bool:
        """Whether the server took its memory again."""
        assert model.server
        started = time.monotonic()
        model.become("loading")
        self._changed(True)
        try:
            await model.server.wake()
        except ApiError as error:
            log.warning("cannot wake", extra={"model": model.id, "reason": error.message})
            return False
        if model.state != "loading":
            return False
        self._measure(model)
        model.wake_s = round(time.monotonic() - started, 3)
        model.become("loaded")
        self._changed(True)
        return True

    async def read_ahead(self, spec: ModelSpec) -> None:
        """Its server reads its files in a way of its own."""

    async def reset_cache(self, model_id: str) -> None:
        self._find(model_id, param="model_id")
        message = f"{self.name} keeps its cache to itself; unload the model and load it again."
        raise ApiError(400, "unsupported_parameter", message, param="model_id")

    async def restart_device(self, index: int, leave: Leave) -> None:
        raise ApiError(404, "unknown_device", f"{self.name} keeps no device {index}.", param="index")


def _free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""A neuron without inference: the node API of `neuron.wire` over real HTTP, a script in place of devices.

Nothing in it depends on time: `hold()` makes loads, unloads or everything wait until the returned context is
left, and `failures` makes loads fail. It counts what it was asked in `asked`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

import uvicorn

from neuron.wire import (
    ApiError,
    DeviceHealth,
    DeviceInfo,
    Discovery,
    Health,
    Leave,
    ModelFailure,
    ModelInfo,
    ModelLoad,
    ModelSpec,
)

FORMATS = ("chat_template", "tool_format", "reasoning_format")  # told back as what the template takes


class _Server(uvicorn.Server):
    """uvicorn's, without its ticks of a tenth of a second: it ends at once, as a killed process does."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Accept no more, but let what has been accepted become a connection: Server.close() would have
        # such a one fail half-made, its socket open.
        for listener in sockets or ():
            asyncio.get_running_loop().remove_reader(listener)
        for _ in range(10):
            await asyncio.sleep(0)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)


class FakeNeuron:
    """`with FakeNeuron("a", devices=[8000]) as node:` listens on a free port of the loopback interface."""

    def __init__(
        self,
        name: str = "fake",
        *,
        devices: list[int] | None = None,
        token: str = "",
        harnesses: Sequence[str] = ("torch",),
    ) -> None:
        self.name = name
        self.token = token
        self.devices_mb = [8000] if devices is None else devices
        self.device_states: dict[int, str] = {}  # ready by default; no memory is told of any other
        self.sizes: dict[str, int] = {}  # MiB a model takes, spread over its devices; 1000 by default
        self.needs: dict[str, int] = {}  # MiB that it says a model needs at least; by default what it takes
        self.shares: dict[str, list[int]] = {}  # MiB on each of its devices; by default as much on each
        self.specs: dict[str, ModelSpec] = {}  # what was asked for last
        self.failures: dict[str, ApiError] = {}
        self.models: dict[str, ModelInfo] = {}
        self.max_asleep = 0  # models that its host memory has room for
        self.kept: dict[str, int] = {}  # the priorities with which models fell asleep
        self.busy: dict[str, int] = {}  # requests under way, by model
        self.answers: dict[str, Any] = {}  # path → what to say instead of the truth
        self.refusals: dict[str, int] = {}  # path → a status instead
        self.asked: list[tuple[str, str]] = []  # (path, model) of loads and unloads
        self.harnesses = list(harnesses)
        self.cycles = 0
        self.leak_mb = 0  # memory that an unload does not give back
        self.protocol = 1
        self.pid = 1000
        self._holds: dict[str, threading.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit it
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._app, interface="asgi3", lifespan="off", log_config=None)
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name=f"fake-neuron-{name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Open connections break, new ones are refused."""
        with suppress(RuntimeError):  # it is stopped already
            self._loop.call_soon_threadsafe(self._server.ended.set)
        self._thread.join(10)
        self._socket.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve([self._socket]))

    @contextmanager
    def hold(self, path: str = "") -> Iterator[None]:
        """Requests for `path` (every path when empty) are read and not answered within this context."""
        self._holds[path] = event = threading.Event()
        try:
            yield
        finally:
            del self._holds[path]
            event.set()

    def has(self, *models: str, state: str = "loaded", devices: list[int] | None = None) -> None:
        """Put models there without being asked to load them."""
        for model in models:
            self.models[model] = self._info(ModelSpec(model_id=model, devices=devices), state)

    def restart(self) -> None:
        """What a new daemon on that host would be: nothing is loaded, and the pid differs."""
        self.models.clear()
        self.pid += 1

    def loads(self, model: str) -> int:
        return self.asked.count(("/models/load", model))

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            status, answer = await self._respond(scope, body)
        except asyncio.CancelledError:  # the server is being stopped
            return
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        head = {"type": "http.response.start", "status": status, "headers": []}
        with suppress(RuntimeError):  # the asker has gone
            await send(head)
            await send({"type": "http.response.body", "body": content})

    async def _respond(self, scope: Any, body: bytes) -> tuple[int, Any]:
        path = scope["path"]
        if self.token and dict(scope["headers"]).get(b"authorization") != f"Bearer {self.token}".encode():
            return 401, ApiError(401, "invalid_token", "Wrong token.").envelope()
        await self._wait("")
        if path in self.refusals:
            return self.refusals[path], {}
        if path in self.answers:
            return 200, self.answers[path]
        try:
            return 200, await self._do(path, json.loads(body or b"{}"))
        except ApiError as error:
            return error.status, error.envelope()

    async def _do(self, path: str, body: dict[str, Any]) -> Any:
        match path:
            case "/discovery":
                return self._discovery().model_dump()
            case "/health":
                return self._health().model_dump()
            case "/models":
                return [info.model_dump() for info in self.models.values()]
            case path if path.startswith("/models/") and path.endswith("/log"):
                return {"lines": [f"{path.split('/')[2]} has a server"]}
            case "/models/load":
                await self._load(ModelSpec(**body))
                return {}
            case "/models/read-ahead":
                self.asked.append((path, body["model_id"]))
                return {}
            case "/models/unload":
                await self._unload(body["model_id"], Leave(**body))
                return {}
            case "/devices/0/restart":
                await self._restart(Leave(**body))
                return {}
            case _:
                raise ApiError(404, "not_found", f"There is no {path} here.")

    async def _wait(self, path: str) -> None:
        if event := self._holds.get(path):
            while not event.is_set():
                await asyncio.sleep(0.01)

    async def _load(self, spec: ModelSpec) -> None:
        self.asked.append(("/models/load", spec.model_id))
        self.specs[spec.model_id] = spec
        known = self.models.get(spec.model_id)
        if known and known.state == "loaded":
            return
        was_asleep = known is not None and known.state == "asleep"
        waking = {"host_mb": known.host_mb if known and was_asleep else None, "load_s": 40.0, "wake_s": 2.0}
        self.models[spec.model_id] = self._info(spec, "loading").model_copy(update=waking)
        await self._wait("/models/load")
        error = self.failures.get(spec.model_id)
        info = self._info(spec, "loaded").model_copy(update=waking | {"host_mb": None})
        if error is None and any(
            used > total for used, total in zip(self._used(info), self.devices_mb, strict=True)
        ):
            error = ApiError(507, "insufficient_memory", f"{spec.model_id} does not fit.")
        if error:
            failure = ModelFailure(code=error.code, message=error.message)
            self.models[spec.model_id] = info.model_copy(update={"state": "failed", "error": failure})
            raise error
        if spec.model_id in self.models:
            self.models[spec.model_id] = info

    async def _unload(self, model: str, leave: Leave) -> None:
        self.asked.append(("/models/unload", model))
        if model not in self.models:
            raise ApiError(404, "model_not_found", f"{model} is not loaded.")
        await self._let_go([model], "unloading", leave)
        await self._wait("/models/unload")
        if error := self.failures.get(f"unload {model}"):
            self._become(model, "loaded")
            raise error
        self.busy.pop(model, None)
        left = self.models.pop(model)
        if leave.keep and self.max_asleep:
            asleep = {"state": "asleep", "memory_mb": None, "host_mb": self.sizes.get(model, 1000)}
            self.models[model] = left.model_copy(update=asleep)
            self.kept[model] = leave.priority
            sleeping = [name for name, info in self.models.items() if info.state == "asleep"]
            for name in sleeping[: -self.max_asleep]:
                del self.models[name]

    async def _restart(self, leave: Leave) -> None:
        self.asked.append(("/devices/0/restart", ""))
        there = [name for name, info in self.models.items() if info.state == "loaded"]
        await self._let_go(there, "loading", leave)
        self.cycles = 0
        await self._wait("/devices/0/restart")
        for name in there:
            self.busy.pop(name, None)
            self._become(name, "loaded")

    async def _let_go(self, models: list[str], state: str, leave: Leave) -> None:
        for name in models:
            self._become(name, state)
        deadline = self._loop.time() + leave.grace_s
        while any(self.busy.get(name) for name in models):
            if self._loop.time() >= deadline:
                if leave.force:
                    return
                for name in models:
                    self._become(name, "loaded")
                raise ApiError(409, "model_busy", f"{models[0]} still had requests under way.")
            await asyncio.sleep(0.01)

    def _become(self, model: str, state: str) -> None:
        self.models[model] = self.models[model].model_copy(update={"state": state})

    def _info(self, spec: ModelSpec, state: Any) -> ModelInfo:
        shares = self.shares.get(spec.model_id, [])
        size = sum(shares) or self.sizes.get(spec.model_id, 1000)
        return ModelInfo(
            id=spec.model_id,
            source=spec.source or spec.model_id,
            state=state,
            devices=spec.devices if spec.devices is not None else [0],
            harness=spec.harness,
            memory_mb=size if state == "loaded" else None,
            device_memory_mb=shares if state == "loaded" else [],
            needed_mb=self.needs.get(spec.model_id, size) if state == "loaded" else None,
            format=spec.quant or "bf16",
            bits_per_weight=4.5 if spec.quant else 16.0,
            context=4096,
            progress=0.5 if state == "loading" else None,
            capabilities=["chat"],
            text={name: value for name in FORMATS if (value := getattr(spec, name))},
            kv_dtype=spec.kv_dtype,
        )

    def _used(self, extra: ModelInfo | None = None) -> list[int]:
        used = [self.leak_mb] * len(self.devices_mb)
        for info in [*self.models.values(), *([extra] if extra else [])]:
            even = [(info.memory_mb or 0) // len(info.devices)] * len(info.devices)
            for index, mb in zip(info.devices, info.device_memory_mb or even, strict=True):
                used[index] += mb if info.state != "failed" else 0
        return used

    def _discovery(self) -> Discovery:
        return Discovery(
            protocol=self.protocol,
            version="1.2.3",
            hostname=self.name,
            os="Linux",
            kernel="6.1",
            devices=[
                DeviceInfo(index=index, name="Fake GPU", kind="cuda", memory_total_mb=total)
                for index, total in enumerate(self.devices_mb)
            ],
            harnesses=self.harnesses,
        )

    def _device(self, index: int, used_mb: int) -> DeviceHealth:
        state = self.device_states.get(index, "ready")
        return DeviceHealth(
            index=index,
            state=state,
            worker=f"cuda-dev-{index}",
            memory_used_mb=used_mb if state == "ready" else 0,
            memory_free_mb=self.devices_mb[index] - used_mb if state == "ready" else 0,
            cycles=self.cycles,
        )

    def _health(self) -> Health:
        used = self._used()
        devices = [self._device(index, used[index]) for index in range(len(self.devices_mb))]
        models = [
            ModelLoad(id=model, running=self.busy.get(model, 0))
            for model, info in self.models.items()
            if info.state == "loaded"
        ]
        return Health(status="ok", uptime_s=1, pid=self.pid, rss_mb=100, devices=devices, models=models)

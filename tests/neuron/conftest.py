"""A neuron with the fake worker: its whole HTTP API on a real port, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn

from cortex_site.http.protocol import ServerProtocol
from neuron.api.app import build_app
from neuron.cli import Server
from neuron.config import NeuronConfig
from neuron.daemon import Daemon
from neuron.discovery import DiscoveredHost
from neuron.harness import Harness, HarnessContext
from neuron.supervisor.torch_harness import TorchHarness
from neuron.wire import DeviceInfo
from tests.stubs.model_dir import write_model
from tests.stubs.tls import TLS

FAKE = (sys.executable, "-m", "tests.stubs.fake_worker")
PATIENCE_S = 60.0  # enough for a slow machine; only a hang takes longer


@dataclass
class Neuron:
    daemon: Daemon
    http: httpx.AsyncClient
    url: str

    async def chat(self, text: str, **options: Any) -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": text}]} | options
        return await self.http.post("/v1/chat/completions", json=body)

    async def stream(self, text: str, **options: Any) -> list[Any]:
        """All events of a streamed answer, decoded, without comments; `[DONE]` is that string."""
        answer = await self.chat(text, stream=True, **options)
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
        return events_of(answer.text)

    async def load(self, path: Path, model_id: str = "m", **options: Any) -> httpx.Response:
        spec = {"model_id": model_id, "source": str(path)} | options
        return await self.http.post("/models/load", json=spec)

    async def models(self) -> dict[str, dict[str, Any]]:
        return {model["id"]: model for model in (await self.http.get("/models")).json()}

    async def device(self) -> dict[str, Any]:
        health = (await self.http.get("/health")).json()
        return health["devices"][0]

    async def running(self, model_id: str = "m") -> int:
        health = (await self.http.get("/health")).json()
        return sum(model["running"] for model in health["models"] if model["id"] == model_id)


def events_of(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


async def until(condition: Callable[[], Any]) -> Any:
    """The result of `condition` once it is true."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            result = await condition()
            if result:
                return result
            await asyncio.sleep(0.02)


def config(**values: Any) -> NeuronConfig:
    values.setdefault("restart", {"first_delay_s": 0.05, "max_delay_s": 0.1})
    values.setdefault("events_interval_ms", 20)
    values.setdefault("stop_grace_s", 0.1)
    return NeuronConfig(**values)


CPU = DeviceInfo(index=0, name="fake", kind="cpu", memory_total_mb=1000)


@contextlib.asynccontextmanager
async def neuron_with(
    settings: NeuronConfig,
    devices: int = 1,
    worker: Sequence[str] = FAKE,
    others: Sequence[Callable[[HarnessContext], Harness]] = (),
    kind: str = "cpu",
) -> AsyncIterator[Neuron]:
    host = DiscoveredHost([CPU.model_copy(update={"index": index, "kind": kind}) for index in range(devices)])
    torch = functools.partial(TorchHarness, worker_command=worker)
    daemon = Daemon(settings, host, url="http://127.0.0.1:13131", harnesses=[torch, *others])
    options = uvicorn.Config(
        build_app(daemon), port=0, log_config=None, access_log=False, lifespan="on",
        timeout_graceful_shutdown=5, http=ServerProtocol, ws="none", proxy_headers=False,
    )  # fmt: skip
    server = Server(options, daemon)
    server.capture_signals = contextlib.nullcontext  # the signals are the test runner's
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: _started(server, task))
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient(verify=TLS, base_url=url, timeout=PATIENCE_S) as http:
            yield Neuron(daemon, http, url)
    finally:
        server.stop()
        await task


async def _started(server: uvicorn.Server, task: asyncio.Task[None]) -> bool:
    return server.started or task.done()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neuron(model_dir: Path) -> AsyncIterator[Neuron]:
    """A neuron that has loaded the model `m`, for all tests of a module."""
    async with neuron_with(config()) as running:
        answer = await running.load(model_dir)
        assert answer.status_code == 200, answer.text
        yield running

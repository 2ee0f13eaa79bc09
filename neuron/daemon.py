"""The daemon of one host without its HTTP: the models, their devices, and the state that `/events` sends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager

from cortex_site.base.last_lines import LastLines
from neuron import sources
from neuron.config import NeuronConfig
from neuron.discovery import DiscoveredHost, describe
from neuron.events import Events
from neuron.harness import Harness, HarnessContext
from neuron.managed.installed import installed
from neuron.model_lines import ModelLines
from neuron.registry import Registry
from neuron.sandbox.sandbox import Sandbox
from neuron.sandbox.verdicts import Verdicts
from neuron.sources import FoundModel
from neuron.supervisor.device_worker import rss_mb
from neuron.supervisor.torch_harness import TorchHarness
from neuron.templates import Templates
from neuron.transfers import TRANSFERS
from neuron.videos import Videos
from neuron.wire import ApiError, DeviceHealth, Discovery, Health, ModelSpec, NodeState

log = logging.getLogger("neuron")


class Daemon:
    """Makes the harnesses and runs them, with `beside` next to them for as long.

    By default these are torch's and one for each managed engine that is installed. `last` has the last lines
    of this process's log.
    """

    def __init__(
        self,
        config: NeuronConfig,
        host: DiscoveredHost,
        *,
        url: str,
        harnesses: Sequence[Callable[[HarnessContext], Harness]] | None = None,
        beside: Callable[[], Coroutine[None, None, None]] | None = None,
        last: LastLines | None = None,
    ) -> None:
        self.config = config
        self._beside = beside
        self._host = host
        self._tasks: list[asyncio.Task[None]] = []
        self._downloads: set[asyncio.Task[None]] = set()
        self._started = time.monotonic()
        self.sandbox = Sandbox(config.sandbox)
        self.verdicts = Verdicts(self.sandbox)
        self.events = Events(
            self.state,
            interval_s=config.events_interval_ms / 1000,
            keepalive_s=config.stream.keepalive_s,
        )
        self.templates = Templates(config.templates)
        self.videos = Videos(config.videos)
        context = HarnessContext(config, url, host.devices, self.events.changed, self.templates, host)
        makers = [TorchHarness, *installed(config)] if harnesses is None else harnesses
        self.registry = Registry([make(context) for make in makers])
        self._lines = ModelLines()
        self.last_lines = last or LastLines(config.log_lines)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run workers within this context; the configured models are loaded in the background."""
        self._tasks = [
            asyncio.create_task(self._run_registry(), name="registry"),
            asyncio.create_task(self.registry.load_all(self.config.models), name="load at start"),
            asyncio.create_task(self.templates.warm_up(), name="warm up"),
        ]
        log.addHandler(self._lines)
        if self._beside:
            self._tasks.append(asyncio.create_task(self._beside(), name="beside"))
        try:
            yield
        finally:
            log.removeHandler(self._lines)
            self.events.close()
            self._end_work()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.sandbox.close()
            await self.templates.close()
            await self.videos.close()

    async def _run_registry(self) -> None:
        try:
            await self.registry.run()
        except Exception:
            log.critical("the registry crashed; neuron ends", exc_info=True)
            signal.raise_signal(signal.SIGTERM)
            raise

    def stop(self) -> None:
        """End event streams now, and answers that still run after `stop_grace_s` with an error."""
        self.events.close()
        asyncio.get_running_loop().call_later(self.config.stop_grace_s, self._end_work)

    def _end_work(self) -> None:
        for task in (*self._tasks, *self._downloads):
            task.cancel()

    def log(self, model_id: str) -> Sequence[str]:
        """The last lines of the model's own server, else what was logged of it. Raises `ApiError` 404."""
        return self.registry.log(model_id) or self._lines.of(model_id)

    def download(self, spec: ModelSpec) -> None:
        """Bring a model's files to this node in the background; `TRANSFERS` tells how far it is."""
        find = sources.find(spec.source or spec.model_id, self.config.models_dir, spec.quant)
        task = asyncio.create_task(self._note_download(spec, find), name=f"download {spec.model_id}")
        self._downloads.add(task)
        task.add_done_callback(self._downloads.discard)

    async def _note_download(self, spec: ModelSpec, find: Awaitable[FoundModel]) -> None:
        try:
            found = await find
        except ApiError as error:
            TRANSFERS.refuse(spec.source or spec.model_id, error.message)
            log.warning("download failed", extra={"model": spec.model_id, "reason": error.message})
        else:
            log.info("model is on disk", extra={"model": spec.model_id, "path": str(found.path)})

    def discovery(self) -> Discovery:
        return describe(self._host, self.registry.harnesses)

    def health(self) -> Health:
        devices, models = self.registry.health()
        return Health(
            status=_status(devices),
            uptime_s=round(time.monotonic() - self._started, 3),
            pid=os.getpid(),
            rss_mb=rss_mb(os.getpid()) or 0,
            devices=[self._with_gauges(device) for device in devices],
            models=list(models),
        )

    def _with_gauges(self, device: DeviceHealth) -> DeviceHealth:
        utilization, temperature = self._host.gauges(device.index)
        return device.model_copy(update={"utilization_pct": utilization, "temperature_c": temperature})

    def state(self, seq: int) -> NodeState:
        models = [model.model_copy(update={"text": {}}) for model in self.registry.list()]
        return NodeState(seq=seq, health=self.health(), models=models)


def _status(devices: Sequence[DeviceHealth]) -> str:
    ready = [device.state == "ready" for device in devices]
    if all(ready):
        return "ok"
    return "degraded" if any(ready) else "failed"

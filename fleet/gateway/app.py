"""A data-plane worker: `Gateway` owns its parts, `application` is what the ASGI server runs."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from cortex_site.config import CortexConfig
from cortex_site.http.application import Application
from fleet.gateway.api import make_api
from fleet.gateway.control.listener import Listener
from fleet.gateway.control.plane import ControlPlane, ControlPlaneError
from fleet.gateway.control.watch import ControlWatch
from fleet.gateway.dialects.image_fetcher import ImageFetcher
from fleet.gateway.dialects.images import Pictures
from fleet.gateway.dialects.response_store import ResponseStore
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.limits.limiter import Limiter
from fleet.gateway.loading import Loader
from fleet.gateway.nodes.following import Asking
from fleet.gateway.nodes.nodes import Nodes
from fleet.gateway.nodes.view import FleetView
from fleet.gateway.record.pulse import pulse
from fleet.gateway.record.recorder import Recorder
from fleet.records import RequestRecord

log = logging.getLogger("cortex.gateway")

FIRST_WORD_S = 2.0  # a worker that starts waits so long for nodes to say what they have: else it answers 404


class Gateway:
    """The worker's parts, and the task that keeps the configuration fresh."""

    def __init__(
        self,
        config: CortexConfig,
        control: ControlPlane,
        store: Callable[[Sequence[RequestRecord]], None],
    ) -> None:
        limits = config.gateway
        self.config = config
        self.control = control
        self.view = FleetView()
        self.nodes = Nodes(
            self.view,
            PoolBounds(
                connect_s=limits.connect_timeout_s,
                first_byte_s=limits.first_byte_timeout_s,
                idle_s=limits.idle_timeout_s,
                max_connections=limits.max_connections_per_node,
                queue_s=limits.connection_wait_s,
                resend=limits.repeat_unanswered,
            ),
            Asking(config.poll.interval_s, config.poll.misses_until_unhealthy),
            workers=limits.workers,
        )
        self.loader = Loader(self.view, control, limits.load_wait_s)
        self.recorder = Recorder(
            store,
            queue_size=limits.record_queue_size,
            retry_s=limits.record_retry_s,
            known=self._knows,
        )
        self.limiter = Limiter(config.redis.url, timeout_s=config.redis.timeout_ms / 1000)
        self.listener = Listener(
            config.redis.url,
            timeout_s=config.redis.timeout_ms / 1000,
            polled_within_s=3 * config.poll.interval_s + config.poll.timeout_s,
        )
        self.responses = ResponseStore(
            config.redis.url, config.responses, timeout_s=config.redis.timeout_ms / 1000
        )
        self.pictures = Pictures(limits, ImageFetcher())
        self.watch = ControlWatch(limits.admin_listen, config.poll.interval_s)
        self.open_streams = 0
        self._away: list[str] = []

    def _knows(self, model: str) -> bool:
        return self.view.snapshot.knows(model)

    @property
    def missing(self) -> list[str]:
        """Parts of the control plane that do not answer."""
        without_redis = ["redis"] if self.limiter.local else []
        return [*self._away, *(without_redis or self.listener.missing), *self.watch.missing]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything that runs beside requests, from before the first to after the last."""
        self.recorder.start()
        await self._refresh()
        await self.nodes.heard(FIRST_WORD_S)
        tasks = [
            asyncio.create_task(self._keep_fresh(), name="configuration"),
            asyncio.create_task(self.listener.run(), name="listener"),
            asyncio.create_task(self.watch.run(), name="control"),
            asyncio.create_task(pulse(self), name="pulse"),
        ]
        gc.collect()
        gc.freeze()  # what is there now stays; the collector need not walk it again
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.loader.close()
            await self.limiter.close()
            await self.responses.close()
            await self.nodes.close()
            self.control.close()
            await asyncio.to_thread(self.recorder.close, 5.0)

    async def _keep_fresh(self) -> None:
        """At once when a change is announced; else its version is looked at now and then."""
        changed = self.listener.changed
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.gateway.configuration_check_s):
                    await changed.wait()
            changed.clear()
            await self._refresh()

    async def _refresh(self) -> None:
        known = self.view.snapshot.config.version or None
        try:
            configuration = await self.control.configuration(known)
        except ControlPlaneError:
            self._away = ["database"]
            return
        self._away = []
        if configuration is not None:
            self.view.set_configuration(configuration)
            await self.nodes.update()
            log.info(
                "configuration", extra={"version": configuration.version, "nodes": len(configuration.nodes)}
            )


def application(gateway: Gateway) -> Application:
    return Application(
        make_api(gateway), max_body_bytes=gateway.config.gateway.max_body_bytes, lifespan=gateway.running
    )

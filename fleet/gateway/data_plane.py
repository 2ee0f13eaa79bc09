"""One worker of the data plane: its parts, and the tasks that run beside its requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from cortex_site.base.ending import end
from cortex_site.base.interpreter import collect_in_small_steps
from cortex_site.base.tracing import tracer
from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.http.locality import Locality
from cortex_site.http.origins import Origins
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request
from fleet.gateway.control.listener import Listener
from fleet.gateway.control.plane import ControlPlane, ControlPlaneError
from fleet.gateway.control.watch import ControlWatch
from fleet.gateway.dialects.image_fetcher import ImageFetcher
from fleet.gateway.dialects.images import ImagePolicy
from fleet.gateway.dialects.response_store import ResponseStore
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.limits.keys import KeyRing
from fleet.gateway.limits.limiter import Limiter
from fleet.gateway.loading import Loader
from fleet.gateway.nodes.fleet_state import FleetState
from fleet.gateway.nodes.nodes import Nodes
from fleet.gateway.nodes.watcher import WatchPolicy
from fleet.gateway.record import gauges
from fleet.gateway.record.recorder import Recorder
from fleet.gateway.record.traces import RequestTraces
from fleet.snapshot import KeyView
from neuron.wire import ApiError

log = logging.getLogger("cortex.gateway")

# A worker that starts waits this long for its nodes to report their models: it answers 404 without them.
NODES_REPORT_S = 2.0


class DataPlane:
    """What the requests of one worker share."""

    def __init__(
        self,
        config: CortexConfig,
        control: ControlPlane,
        store: Callable[[Sequence[bytes]], None],
    ) -> None:
        settings = config.gateway
        redis_timeout_s = config.redis.timeout_ms / 1000
        self.config = config
        self.control = control
        self.fleet = FleetState()
        self.nodes = Nodes(
            self.fleet,
            PoolBounds(
                connect_s=settings.connect_timeout_s,
                first_byte_s=settings.first_byte_timeout_s,
                idle_s=settings.idle_timeout_s,
                max_connections=settings.max_connections_per_node,
                queue_s=settings.connection_wait_s,
                resend=settings.repeat_unanswered,
            ),
            WatchPolicy(config.poll.interval_s, config.poll.misses_until_unhealthy),
            workers=settings.workers,
            ca=settings.node_ca,
        )
        self.loader = Loader(self.fleet, control, settings.load_wait_s)
        self.tracer = tracer(config.tracing, "cortex-gateway")
        self.traces = RequestTraces(self.tracer) if self.tracer else None
        self.recorder = Recorder(
            store,
            queue_size=settings.record_queue_size,
            retry_s=settings.record_retry_s,
            known=self._knows,
            traces=self.traces,
        )
        self.limiter = Limiter(config.redis.url, timeout_s=redis_timeout_s)
        self.listener = Listener(
            config.redis.url,
            timeout_s=redis_timeout_s,
            polled_within_s=3 * config.poll.interval_s + config.poll.timeout_s,
        )
        self.responses = ResponseStore(config.redis.url, config.responses, timeout_s=redis_timeout_s)
        self.origins = Origins(settings.allowed_origins)
        self.keys = KeyRing(
            Locality(settings.allowed_hosts, self.origins), allow_anonymous=settings.allow_anonymous
        )
        self.images = ImagePolicy(settings, ImageFetcher())
        self.watch = ControlWatch(settings.admin_listen, config.poll.interval_s)
        self.open_streams = 0
        self._database_away = False

    def authorize(self, request: ParsedRequest | Request) -> KeyView | None:
        """The caller's key; None for an anonymous caller. Raises `ApiError` 401 or 403."""
        return self.keys.authorize(request, self.fleet.snapshot.configuration)

    def judge(self, request: Request) -> ApiError | None:
        """Why the body of a request is not even read: its sender may not send one."""
        try:
            if request.method not in {"GET", "HEAD", "OPTIONS"}:
                self.authorize(request)
        except ApiError as error:
            return error
        return None

    def _knows(self, model: str) -> bool:
        return self.fleet.snapshot.knows(model)

    @property
    def missing(self) -> list[str]:
        """The parts of the control plane that do not answer: `database`, `redis`, `tasks`, `control`."""
        found = ["database"] if self._database_away else []
        found += ["redis"] if self.limiter.local else self.listener.missing
        return found + self.watch.missing

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what runs beside requests, from before the first one to after the last."""
        self.recorder.start()
        await self._refresh()
        await self.nodes.heard(NODES_REPORT_S)
        tasks = [
            asyncio.create_task(self._keep_fresh(), name="configuration"),
            asyncio.create_task(self.listener.run(), name="listener"),
            asyncio.create_task(self.watch.run(), name="control"),
            asyncio.create_task(gauges.publish(self._gauges), name="gauges"),
        ]
        collect_in_small_steps()
        try:
            yield
        finally:
            await end(tasks)
            await self.loader.close()
            await self.limiter.close()
            await self.responses.close()
            await self.nodes.close()
            self.control.close()
            await asyncio.to_thread(self.recorder.close, 5.0)
            if self.tracer is not None:
                await asyncio.to_thread(self.tracer.close)

    def _gauges(self) -> gauges.WorkerGauges:
        return gauges.WorkerGauges(
            self.open_streams, self.recorder.waiting, self.limiter.local, self.nodes.breakers
        )

    async def _keep_fresh(self) -> None:
        """Read the configuration when a change is announced, and check its version now and then."""
        changed = self.listener.changed
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.gateway.configuration_check_s):
                    await changed.wait()
            changed.clear()
            await self._refresh()

    async def _refresh(self) -> None:
        known = self.fleet.snapshot.configuration.version or None
        try:
            configuration = await self.control.configuration(known)
        except ControlPlaneError:
            self._database_away = True
            return
        self._database_away = False
        if configuration is not None:
            self.fleet.set_configuration(configuration)
            await self.nodes.update()
            log.info(
                "configuration", extra={"version": configuration.version, "nodes": len(configuration.nodes)}
            )

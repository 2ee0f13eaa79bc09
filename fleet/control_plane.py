"""The control plane through `fleet.services`: verbs run in threads, each for a bounded time.

Only a worker's process imports this, after `django.setup()`. The gateway itself knows the protocol in
`fleet.gateway.control.plane` and stays free of models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cortex_site.base import trace_context
from fleet.batch_control import ServicesBatches
from fleet.gateway.control.plane import ControlPlaneError
from fleet.operations import OperationView
from fleet.services import configuration, lifecycle
from fleet.snapshot import Configuration
from neuron.wire import ApiError

log = logging.getLogger("cortex.control")
T = TypeVar("T")


class ServicesControl:
    """A `ControlPlane`. A call that outlasts `timeout_s` is given up; its thread ends when it can."""

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="control")
        self.batches = ServicesBatches(self.call)

    async def configuration(self, known_version: int | None) -> Configuration | None:
        if known_version is not None and await self.call(configuration.version) == known_version:
            return None
        return await self.call(configuration.read)

    async def ensure_loaded(self, model: str) -> OperationView:
        trace = trace_context.CURRENT.get()
        asked = {"requested_by": "gateway", "traceparent": str(trace or "")}
        return await self.call(lambda: lifecycle.ensure_loaded(model, **asked))

    async def operation(self, operation_id: int) -> OperationView:
        return await self.call(lambda: lifecycle.operation(operation_id))

    async def call(self, verb: Callable[[], T]) -> T:
        """What a verb of `fleet.services` returns. Raises `ApiError` and `ControlPlaneError`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._threads, verb)
        except ApiError:
            raise
        except Exception as error:  # whatever the database or the broker raises
            log.warning("control plane did not answer", extra={"error": _brief(error)})
            raise ControlPlaneError(_brief(error)) from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer in time'}"

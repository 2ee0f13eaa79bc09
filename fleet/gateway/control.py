"""The data plane's way to the control plane: a few verbs, on a thread of their own, each bounded in time.

No request to a loaded model comes this way. When database or broker are away, every verb raises
`ControlPlaneError`, and what was known goes on being served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from django.db import close_old_connections

from fleet.services import configuration, lifecycle
from fleet.snapshot import Configuration
from neuron.wire import ApiError

log = logging.getLogger("cortex.control")
T = TypeVar("T")


class ControlPlaneError(Exception):
    """Database or broker did not answer."""


class OperationState(Protocol):
    """What the data plane reads of an operation."""

    @property
    def id(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def node(self) -> str: ...
    @property
    def progress(self) -> float | None: ...
    @property
    def message(self) -> str: ...
    @property
    def error_code(self) -> str: ...


class ControlPlane(Protocol):
    """The seam: `DjangoControlPlane` in service, a fake in tests."""

    async def configuration(self, known_version: int | None) -> Configuration | None:
        """The configuration, or None while it is still at `known_version`."""

    async def ensure_loaded(self, model: str) -> OperationState:
        """The fleet's one active load of this model, begun if there was none; `ApiError` if impossible."""

    async def operation(self, operation_id: int) -> OperationState: ...

    def close(self) -> None: ...


class DjangoControlPlane:
    """Calls `fleet.services` in threads that own their database connections."""

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="control")

    async def configuration(self, known_version: int | None) -> Configuration | None:
        if known_version is not None and await self._call(configuration.version) == known_version:
            return None
        return await self._call(configuration.read)

    async def ensure_loaded(self, model: str) -> OperationState:
        return await self._call(lambda: lifecycle.ensure_loaded(model, requested_by="gateway"))

    async def operation(self, operation_id: int) -> OperationState:
        return await self._call(lambda: lifecycle.operation(operation_id))

    async def _call(self, verb: Callable[[], T]) -> T:
        def run() -> T:
            close_old_connections()
            return verb()

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._threads, run)
        except ApiError:
            raise
        except Exception as error:  # whatever database or broker raise: away is away
            log.warning("control plane did not answer", extra={"error": _brief(error)})
            raise ControlPlaneError(_brief(error)) from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _brief(error: Any) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer in time'}"

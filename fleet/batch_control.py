"""Files and batches through `fleet.services`, for the gateway: verbs run in the control plane's threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fleet.services import batches, files

Json = dict[str, Any]
T = TypeVar("T")


class Call(Protocol):
    """Runs a verb in a thread and returns what it does: `fleet.control_plane.ServicesControl.call`."""

    async def __call__(self, verb: Callable[[], T], /) -> T: ...


class ServicesBatches:
    """A `fleet.gateway.control.plane.BatchControl`."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def create_file(self, owner: str, content_type: str, body: bytes) -> Json:
        return await self._call(partial(files.create, owner, content_type, body))

    async def files(self, owner: str, purpose: str | None, after: str | None, limit: int, order: str) -> Json:
        return await self._call(partial(files.listed, owner, purpose, after, limit, order))

    async def file(self, owner: str, ident: str) -> Json:
        return await self._call(lambda: files.view(files.find(owner, ident)))

    async def file_content(self, owner: str, ident: str) -> Path:
        return await self._call(partial(files.content, owner, ident))

    async def delete_file(self, owner: str, ident: str) -> Json:
        return await self._call(partial(files.delete, owner, ident))

    async def create_batch(
        self, owner: str, *, input_file: str, endpoint: str, window: str, metadata: dict[str, str]
    ) -> Json:
        create = partial(batches.create, owner, input_file=input_file, endpoint=endpoint)
        return await self._call(partial(create, window=window, metadata=metadata))

    async def batches(self, owner: str, after: str | None, limit: int) -> Json:
        return await self._call(partial(batches.listed, owner, after, limit))

    async def batch(self, owner: str, ident: str) -> Json:
        return await self._call(partial(batches.show, owner, ident))

    async def cancel_batch(self, owner: str, ident: str) -> Json:
        return await self._call(partial(batches.cancel, owner, ident))

"""Files and batches through `fleet.services`, for the gateway: verbs run in the control plane's threads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from fleet.services import batches, files

Json = dict[str, Any]
Call = Callable[[Callable[[], Any]], Awaitable[Any]]


class ServicesBatches:
    """A `fleet.gateway.control.plane.BatchControl`."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def create_file(self, owner: str, content_type: str, body: bytes) -> Json:
        made: Json = await self._call(partial(files.create, owner, content_type, body))
        return made

    async def files(self, owner: str, purpose: str | None, after: str | None, limit: int, order: str) -> Json:
        page: Json = await self._call(partial(files.listed, owner, purpose, after, limit, order))
        return page

    async def file(self, owner: str, ident: str) -> Json:
        found: Json = await self._call(lambda: files.view(files.find(owner, ident)))
        return found

    async def file_content(self, owner: str, ident: str) -> Path:
        path: Path = await self._call(partial(files.content, owner, ident))
        return path

    async def delete_file(self, owner: str, ident: str) -> Json:
        deleted: Json = await self._call(partial(files.delete, owner, ident))
        return deleted

    async def create_batch(
        self, owner: str, *, input_file: str, endpoint: str, window: str, metadata: dict[str, str]
    ) -> Json:
        create = partial(batches.create, owner, input_file=input_file, endpoint=endpoint)
        made: Json = await self._call(partial(create, window=window, metadata=metadata))
        return made

    async def batches(self, owner: str, after: str | None, limit: int) -> Json:
        page: Json = await self._call(partial(batches.listed, owner, after, limit))
        return page

    async def batch(self, owner: str, ident: str) -> Json:
        found: Json = await self._call(partial(batches.show, owner, ident))
        return found

    async def cancel_batch(self, owner: str, ident: str) -> Json:
        stopped: Json = await self._call(partial(batches.cancel, owner, ident))
        return stopped

"""The fleet over a WebSocket: its whole state, whenever that has changed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import Error as DatabaseError

from fleet.api.schemas import StatusOut
from fleet.services import overview


class FleetConsumer(AsyncWebsocketConsumer):
    """`/ws/fleet`, for staff: sends the answers of `/api/status`."""

    channel_layer_alias = ""  # no layer: nothing sends to it, and it works while Redis is away
    _task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        user = self.scope.get("user")
        if user is None or not user.is_staff:
            await self.close(code=4403)
            return
        await self.accept()
        self._task = asyncio.create_task(self._push(), name="fleet push")

    async def disconnect(self, code: int) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Ignore what pages send."""

    async def _push(self) -> None:
        sent = ""
        while True:
            with suppress(DatabaseError):  # the next look may succeed
                state: str = await database_sync_to_async(_state)()
                if state != sent:
                    await self.send(text_data=state)
                    sent = state
            await asyncio.sleep(settings.LIVE_INTERVAL_S)


def _state() -> str:
    status: Any = StatusOut.from_orm(_Attributes(overview.status()))
    return str(status.model_dump_json())


class _Attributes:
    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

"""The fleet over a WebSocket: its whole state, whenever that has changed."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import Error as DatabaseError

from fleet.services import live_state


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
                state = await LATEST.state()
                if state != sent:
                    await self.send(text_data=state)
                    sent = state
            await asyncio.sleep(settings.LIVE_INTERVAL_S)


class _Latest:
    """The last look at the fleet, which all open pages share."""

    def __init__(self) -> None:
        self._text = ""
        self._looked_at = -math.inf
        self._looking = asyncio.Lock()

    async def state(self) -> str:
        """Return the state of now, or of half an interval ago at most."""
        async with self._looking:
            if time.monotonic() - self._looked_at > settings.LIVE_INTERVAL_S / 2:
                self._text = (await database_sync_to_async(live_state.encoded)()).decode()
                self._looked_at = time.monotonic()
        return self._text


LATEST = _Latest()

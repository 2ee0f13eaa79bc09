from __future__ import annotations

import asyncio


class Flow:
    """Whether a transport is read, and whether it takes more; `drain` waits until it does.

    What to wait for is made when somebody waits: of most connections nobody ever does.
    """

    __slots__ = ("_room", "_transport", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._room: asyncio.Event | None = None
        self.read_paused = False
        self.write_paused = False

    async def drain(self) -> None:
        if self.write_paused:
            self._room = self._room or asyncio.Event()
            await self._room.wait()

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        room, self._room = self._room, None
        if room is not None:
            room.set()

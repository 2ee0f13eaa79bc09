from __future__ import annotations

import asyncio


class FakeTransport(asyncio.Transport):
    """Keeps what is written; tells its protocol of its end as a loop would."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._closing = False
        self.written = bytearray()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol) -> None:
        self._protocol = protocol

    def get_extra_info(self, name, default=None):
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default

    def write(self, data) -> None:
        assert not self._closing, "written after the end"
        self.written += data

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(lambda: self._protocol.connection_lost(None))

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

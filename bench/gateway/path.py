"""What the gateway itself costs a request: `python -m bench.gateway.path [--seconds S] [--profile]`

One data-plane worker as it is in service, with a key and all of its limits, records, metrics and log lines, but
its sockets are lists: client, node and Redis answer at once, from the event loop. What is left is our own work,
CPU microseconds a JSON request and a chunk of a stream, the least and the median of many short windows: the
least hardly changes when other work runs beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import msgspec
import uvicorn
import uvloop
from uvicorn.server import ServerState

os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="cx-"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cortex_site.settings")
import django

django.setup()

from bench.gateway import mock
from bench.gateway.load import Job, request
from cortex_site import logs
from cortex_site.config import CortexConfig
from cortex_site.light_http import LightProtocol
from fleet.gateway import connection as connections
from fleet.gateway import redis_link, upstream
from fleet.gateway.app import Gateway, application
from fleet.gateway.control import ControlPlaneError
from fleet.gateway.limits_scripts import VERDICT
from fleet.limits import KeyLimits
from fleet.records import RequestRecord
from fleet.snapshot import Configuration, KeyView, ModelView, NodeConfig, NodeView, ProfileView

KEY = "sk-bench"
CONNECTIONS, WINDOW = 32, 64  # requests
CHUNKS = 64
MANY = 10**9


class Wire(asyncio.Transport):
    """A socket whose other end is `answer`: called with what was written, once a turn of the loop."""

    def __init__(self, protocol: asyncio.Protocol, answer: Callable[[bytes], None]) -> None:
        super().__init__()
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._written: list[bytes] = []
        self._closing = False
        self.protocol: Any = protocol
        protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default

    def write(self, data: Any) -> None:
        if not self._written:
            self._loop.call_soon(self._pass)
        self._written.append(data)

    def writelines(self, data: Any) -> None:
        self.write(b"".join(data))

    def _pass(self) -> None:
        written, self._written = self._written, []
        self._answer(b"".join(written))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def _node(link: connections.Connection) -> Callable[[bytes], None]:
    def answer(data: bytes) -> None:
        if b'"stream": true' not in data:
            link.data_received(mock._ANSWER)  # noqa: SLF001 - a sibling
            return
        link.data_received(mock._STREAM_HEAD)  # noqa: SLF001
        pieces = [mock.framed(mock.chunk(i, 0)) for i in range(CHUNKS)]
        end = mock.framed(mock.FINISH) + mock.framed(mock.USAGE_EVENT) + mock.framed(mock.DONE) + b"0\r\n\r\n"
        loop = asyncio.get_running_loop()
        for piece in [*pieces, end]:
            loop.call_soon(lambda data: link._transport.protocol.data_received(data), piece)

    return answer


def _redis(link: redis_link.RedisLink) -> Callable[[bytes], None]:
    """Grants everything."""
    reader = hiredis.Reader()

    def answer(data: bytes) -> None:
        reader.feed(data)
        while (command := reader.gets()) is not False:
            link.data_received(_reply(command))

    return answer


def _reply(command: list[bytes]) -> bytes:
    if command[0] == b"SCRIPT":
        name = b"reserve" if b"ZRANGEBYSCORE" in command[2] else b"other"
        return b"$%d\r\n%b\r\n" % (len(name), name)
    if command[0] == b"EVALSHA" and command[1] == b"reserve":
        verdict = VERDICT.pack(0, 0.0, time.time(), time.time() + 1.234567, 12.345678, 1.234567)
        bulk = b"$%d\r\n%b\r\n" % (len(verdict), verdict)
        members = sum(item.count(b":") == 2 for item in command[4:])
        return b"*%d\r\n" % members + bulk * members
    return b"+OK\r\n"


class Control:
    async def configuration(self, known: int | None) -> Configuration | None:
        if known:
            return None
        limits = KeyLimits(MANY, MANY, 10**6, 10**15, "day")
        import hashlib

        key = KeyView("bench", hashlib.sha256(KEY.encode()).hexdigest(), limits=limits)
        return Configuration(
            version=1,
            nodes={"mock": NodeConfig("mock", "http://127.0.0.1:1")},
            profiles={mock.MODEL: ProfileView(mock.MODEL, context=32_768)},
            keys={key.digest: key},
            has_keys=True,
        )

    async def ensure_loaded(self, model: str) -> Any:
        raise ControlPlaneError

    operation = ensure_loaded

    def close(self) -> None: ...


def store(batch: Sequence[RequestRecord]) -> None:
    msgspec.json.encode(batch)


class Client:
    """Asks again as soon as it is answered."""

    def __init__(
        self, protocol: LightProtocol, data: bytes, end: re.Pattern[bytes], ended: Callable[[], bool]
    ) -> None:
        self._protocol, self._data, self._end, self._ended = protocol, data, end, ended
        Wire(protocol, self._on_bytes)
        protocol.data_received(data)

    def _on_bytes(self, data: bytes) -> None:
        if self._end.search(data) and self._ended():
            self._protocol.data_received(self._data)


async def measure(kind: str, seconds: float) -> list[float]:
    """CPU microseconds per request of each window."""
    config = CortexConfig()
    gateway = Gateway(config, Control(), store)
    app = application(gateway)
    served = uvicorn.Config(
        app,
        http=LightProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    served.load()
    async with gateway.running():
        gateway.view.set_node(
            NodeView(
                gateway.view.snapshot.config.nodes["mock"],
                True,
                None,
                {
                    mock.MODEL: ModelView(
                        mock.MODEL, "loaded", 32_768, capabilities=("chat",), max_running=1024
                    )
                },
            )
        )
        windows: list[float] = []
        count, start, done = 0, time.process_time(), asyncio.Event()
        until = time.monotonic() + seconds
        window = WINDOW if kind == "json" else CONNECTIONS

        def ended() -> bool:
            nonlocal count, start
            count += 1
            if count == window:
                now = time.process_time()
                windows.append((now - start) / count * 1e6)
                count, start = 0, now
                if time.monotonic() > until:
                    done.set()
            return not done.is_set()

        data = request(Job("closed", 1, 1, key=KEY), stream=kind != "json")
        pattern = re.compile(rb'"usage"' if kind == "json" else rb"\[DONE\]")
        state = ServerState()
        for _ in range(CONNECTIONS):
            protocol = LightProtocol(served, state, {}, asyncio.get_running_loop())
            Client(protocol, data, pattern, ended)
        await done.wait()
        await asyncio.sleep(0.1)
        assert not gateway.limiter.local
        return windows


def _replace_sockets() -> None:
    async def connect(self: upstream.Pool) -> connections.Connection:
        made = connections.Connection(self._limits)  # noqa: SLF001
        if self._limits.max_connections == 2:
            await asyncio.sleep(3600)
        Wire(made, _node(made))
        return made

    async def opened(cls: type[redis_link.RedisLink], url: str, timeout_s: float) -> redis_link.RedisLink:
        link = cls(timeout_s)
        Wire(link, _redis(link))
        return link

    upstream.Pool._connect = connect  # type: ignore[method-assign]  # noqa: SLF001
    redis_link.RedisLink._open = classmethod(opened)  # type: ignore[assignment]  # noqa: SLF001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--kind", default="json,stream")
    arguments = parser.parse_args()
    sys.setswitchinterval(0.0005)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    logs.setup("info", "gateway")
    _replace_sockets()
    for kind in arguments.kind.split(","):
        if arguments.profile:
            profile = cProfile.Profile()
            profile.enable()
        windows = uvloop.run(measure(kind, arguments.seconds))
        if arguments.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(70)
        per = 1 if kind == "json" else 1
        print(
            kind,
            f"min {min(windows):.1f}  q1 {statistics.quantiles(windows, n=4)[0]:.1f}  median {statistics.median(windows):.1f}  windows {len(windows)}",
            flush=True,
        )


if __name__ == "__main__":
    main()

# ruff: noqa: E402 - settings come before what reads them
"""What the gateway itself costs a request: python -m bench.gateway.path [--seconds S] [--instructions]

A data-plane worker as it is in service (keys with all limits, records, metrics, log lines), except that its
sockets are lists: clients, nodes and Redis are called from the event loop. What is left is our own work. With
`--keys`, `--nodes` and `--models` requests name so many keys and models in turn.

    cpu_us_per_request   CPU microseconds of the whole process, `least` and `median` over short windows, for
                         `json` and `stream` (chat), `messages` and `responses` (translated, not streamed).
                         The least is hardly touched by what else the machine does
    cpu_translated_over_plain   the least of `messages` over that of `json`
    instructions_per_request   of the whole process, clients and node included, by valgrind's count: the
                         difference between a long and a short run. Only with `--instructions`; a minute each
    chunks_of_a_stream   the node's, its ends included

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import hashlib
import math
import os
import pstats
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="cx-"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cortex_site.site.settings")

import django

django.setup()

import hiredis
import uvicorn
import uvloop
from uvicorn.server import ServerState

from bench import command
from bench.figures import ratio
from bench.gateway import mock
from bench.gateway.load import Job, request
from cortex_site.base import logs
from cortex_site.base.interpreter import favour_event_loop
from cortex_site.config.cortex_toml import CortexConfig, PollSettings
from cortex_site.http.protocol import HTTP_PROTOCOL, ServerProtocol
from ext import prefetch
from fleet.gateway.app import application
from fleet.gateway.control import listener
from fleet.gateway.control.redis_link import RedisLink
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.http import pool
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.http.connection import Connection
from fleet.gateway.limits import limiter
from fleet.gateway.limits.scripts import ADMISSION, PREFETCH
from fleet.gateway.nodes import nodes
from fleet.gateway.record import gauges, recorder
from fleet.key_limits import KeyLimits
from fleet.snapshot import Configuration, KeyView, NodeConfig, ProfileView

KEY, MANY = "sk-bench", 10**9
CONNECTIONS = 32
WINDOW = 64  # requests
CHUNKS = 64  # of a stream
COUNTED = 40  # windows whose instructions are counted
JOBS = {
    "json": Job("closed", 1, 1),
    "stream": Job("streams", 1, 1),
    "messages": Job("closed", 1, 1, dialect="messages"),
    "responses": Job("closed", 1, 1, dialect="responses"),
}


class Wire(asyncio.Transport):
    """A socket whose other end is `answer`: called with what was written, once a turn of the loop."""

    def __init__(self, protocol: Any, answer: Callable[[Wire, bytes], None]) -> None:
        super().__init__()
        self.protocol = protocol
        self.loop = asyncio.get_running_loop()
        self._answer = answer
        self._written: list[bytes] = []
        protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default

    def write(self, data: Any) -> None:
        if not self._written:
            self.loop.call_soon(self._pass)
        self._written.append(data)

    def _pass(self) -> None:
        written, self._written = self._written, []
        self._answer(self, b"".join(written))

    def receive(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...

    close = abort


def node(models: list[str], wire: Wire, data: bytes) -> None:
    if data.startswith(b"GET"):  # /events
        wire.receive(mock.STREAM_HEAD + mock.state(models))
        _ping(wire)
        return
    if data.find(b'"stream": true') < 0:  # `in` makes and drops an exception
        wire.receive(mock.ANSWER)
        return
    pieces = [mock.framed(mock.chunk(number, 0)) for number in range(CHUNKS)]
    end = b"".join(map(mock.framed, (mock.FINISH, mock.USAGE_EVENT, mock.DONE))) + b"0\r\n\r\n"
    for piece in (mock.STREAM_HEAD, *pieces, end):
        wire.loop.call_soon(wire.receive, piece)


def _ping(wire: Wire) -> None:
    wire.receive(mock.PING)
    wire.loop.call_later(mock.PING_S, _ping, wire)


def redis(wire: Wire, data: bytes) -> None:
    """A Redis that grants every request."""
    reader = hiredis.Reader()
    reader.feed(data)
    while (command := reader.gets()) is not False:
        wire.receive(_reply(command))


def _reply(command: list[bytes]) -> bytes:
    if command[0] == b"SCRIPT":
        name = b"reserve" if b"ZRANGEBYSCORE" in command[2] else b"other"
        return _bulk(name)
    if command[:2] == [b"EVALSHA", b"reserve"]:
        return _let_in(*command[10:15], members=len(command) - 15)
    return b"+OK\r\n"


def _let_in(
    advance: bytes, requests: bytes, slots: bytes, tokens: bytes, _window: bytes, *, members: int
) -> bytes:
    now = time.time()
    answers = [ADMISSION.pack(0, 0.0, now, now + 1.23, 12.3456, 1.23)] * members
    if advance:
        answers.append(
            PREFETCH.pack(float(requests), float(slots), float(tokens), now, now + 1.23, now + 12.3, 1)
        )
    return b"*%d\r\n" % len(answers) + b"".join(map(_bulk, answers))


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


@dataclass(frozen=True)
class Fleet:
    """So many keys, nodes and models; a node has a few of the models, and its number is its port."""

    num_keys: int = 1
    num_nodes: int = 1
    num_models: int = 1

    @property
    def keys(self) -> list[str]:
        return [f"{KEY}-{number}" for number in range(self.num_keys)]

    @property
    def models(self) -> list[str]:
        return mock.models(self.num_models)

    def on_node(self, number: int) -> list[str]:
        return mock.models_of(number, self.num_models)

    @property
    def first_windows(self) -> int:
        """After so many, each key has asked, and each node was asked for nearly all its models."""
        return 10 + max(self.num_keys, 4 * self.num_nodes * mock.ON_A_NODE) // WINDOW

    def requests(self, job: Job, *, stream: bool) -> Iterator[bytes]:
        """Requests without end: each next one has another key and another model."""
        pairs = zip(cycle(self.models), cycle(self.keys), strict=False)
        some = islice(pairs, max(self.num_keys, self.num_models))
        return cycle([request(job, stream=stream, model=model, key=key) for model, key in some])


class Control:
    """A fleet whose keys have every kind of limit and none that is reached."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def configuration(self, known: int | None) -> Configuration | None:
        if known:
            return None
        limits = KeyLimits(MANY, MANY, MANY, MANY * MANY, "day")
        keys = [
            KeyView(key, hashlib.sha256(key.encode()).hexdigest(), limits=limits) for key in self._fleet.keys
        ]
        names = {number: f"mock-{number}" for number in range(1, self._fleet.num_nodes + 1)}
        return Configuration(
            version=1,
            nodes={name: NodeConfig(name, f"http://127.0.0.1:{number}") for number, name in names.items()},
            profiles={model: ProfileView(model, context=32_768) for model in self._fleet.models},
            keys={key.digest: key for key in keys},
            has_keys=True,
        )

    async def ensure_loaded(self, model: str) -> Any:
        raise NotImplementedError  # the model is loaded

    operation = ensure_loaded
    batches: Any = None  # none is asked for

    def close(self) -> None: ...


def store(rows: Sequence[bytes]) -> None:
    b",".join(rows)


def stop_timers() -> None:
    """What a clock begins falls out of a count, since a hundred times less happens between two ticks."""
    prefetch.BUSY, prefetch.FEW = MANY, 10**6  # at full speed one grant is for thousands of requests
    recorder.BATCH_WAIT_S = prefetch.HOLD_S = prefetch.LONG_HOLD_S = limiter.LONG_HOLD_S = 1e6
    logs.GATHER_S = 5.0
    mock.PING_S = 1e6
    nodes.EVENT_BOUNDS = replace(nodes.EVENT_BOUNDS, idle_s=1e6)  # no ping comes
    gauges.INTERVAL_S = listener.RECONNECT_S = 1e6
    sys.setswitchinterval(1e3)


def replace_sockets(fleet: Fleet) -> None:
    async def connect(host: str, port: int, tls: Any, bounds: PoolBounds) -> Connection:
        connection = Connection(bounds)
        Wire(connection, partial(node, fleet.on_node(port)))
        return connection

    async def open_link(url: str, timeout_s: float) -> RedisLink:
        link = RedisLink(timeout_s)
        Wire(link, redis)
        return link

    pool.connect = connect
    RedisLink._open = open_link  # type: ignore[method-assign, assignment]  # noqa: SLF001


class Meter:
    """CPU microseconds per request, window by window, until the time is over or enough were answered."""

    def __init__(self, seconds: float, windows: int | None) -> None:
        self.windows: list[float] = []
        self.over = asyncio.Event()
        self._until = math.inf if windows else time.monotonic() + seconds
        self._most = windows or math.inf
        self._count, self._start = 0, time.process_time()

    def tick(self) -> None:
        self._count += 1
        if self._count == WINDOW:
            now = time.process_time()
            self.windows.append((now - self._start) / WINDOW * 1e6)
            self._count, self._start = 0, now
            if time.monotonic() > self._until or len(self.windows) >= self._most:
                self.over.set()


def clients(app: Any, kind: str, requests: Iterator[bytes], meter: Meter) -> None:
    """Connect clients that each ask again as soon as they are answered."""
    served = uvicorn.Config(app, http=HTTP_PROTOCOL, ws="none", log_config=None, proxy_headers=False)
    served.load()
    state, end = ServerState(), b"[DONE]" if kind == "stream" else b'"usage"'

    def ask_again(wire: Wire, answer: bytes) -> None:
        if answer.find(end) >= 0 and not meter.over.is_set():
            meter.tick()
            wire.receive(next(requests))

    for _ in range(CONNECTIONS):
        protocol = ServerProtocol(served, state, {}, asyncio.get_running_loop())
        Wire(protocol, ask_again).receive(next(requests))


async def cpu_us(kind: str, fleet: Fleet, seconds: float, windows: int | None) -> dict[str, float]:
    interval_s = 1e6 if windows else 5.0
    gateway = DataPlane(CortexConfig(poll=PollSettings(interval_s=interval_s)), Control(fleet), store)
    app = application(gateway)
    async with gateway.running():
        while not all(gateway.fleet.snapshot.replicas(model) for model in fleet.models):
            await gateway.fleet.changed(1.0)
        meter = Meter(seconds, windows)
        clients(app, kind, fleet.requests(JOBS[kind], stream=kind == "stream"), meter)
        await meter.over.wait()
        await asyncio.sleep(0.1)
        if gateway.limiter.local:
            raise RuntimeError("Redis was not asked")
    return {"least": min(meter.windows), "median": statistics.median(meter.windows)}


def instructions(kind: str, fleet: Fleet) -> int:
    """Instructions of the whole process for one more request."""
    short, long = (_counted(kind, fleet, fleet.first_windows + more) for more in (0, COUNTED))
    return round((long - short) / COUNTED / WINDOW)


def _counted(kind: str, fleet: Fleet, windows: int) -> int:
    count = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    run = [sys.executable, "-m", "bench.gateway.path", "--json", "--kind", kind, "--windows", str(windows)]
    run += ["--keys", str(fleet.num_keys), "--nodes", str(fleet.num_nodes), "--models", str(fleet.num_models)]
    env = {**os.environ, "PYTHONHASHSEED": "0"}  # it decides about collisions
    said = subprocess.run([*count, *run], check=True, capture_output=True, text=True, env=env).stderr
    return max(int(found.replace(",", "")) for found in re.findall(r"I\s+refs:\s+([\d,]+)", said))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, help="of measuring, for each kind")
    parser.add_argument("--kind", choices=JOBS, help="default: all")
    for what in ("keys", "nodes", "models"):
        parser.add_argument(f"--{what}", type=int, default=1, help=f"{what} that requests name in turn")
    parser.add_argument("--windows", type=int, help=f"of {WINDOW} requests each, in place of a time")
    parser.add_argument("--profile", action="store_true", help="print to stderr where the calls are")
    parser.add_argument("--instructions", action="store_true", help="count them, by valgrind")


def measure(run: command.Run) -> dict[str, Any]:
    options = run.options
    fleet = Fleet(options.keys, options.nodes, options.models)
    replace_sockets(fleet)
    favour_event_loop()
    if options.windows:
        stop_timers()
    seconds = options.seconds or run.pick(4.0, 2.0, 0.1)
    kinds = [options.kind] if options.kind else list(JOBS)
    counted = {kind: instructions(kind, fleet) for kind in kinds} if options.instructions else None
    profile = cProfile.Profile()
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        logs.setup("info", "gateway")  # lines are made, and not read
        with profile if options.profile else nullcontext():
            figures = {kind: uvloop.run(cpu_us(kind, fleet, seconds, options.windows)) for kind in kinds}
    if options.profile:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(50)
    translated, plain = (figures.get(kind, {}).get("least") for kind in ("messages", "json"))
    return {
        "cpu_translated_over_plain": ratio(translated, plain),
        "cpu_us_per_request": figures,
        "instructions_per_request": counted,
        "chunks_of_a_stream": CHUNKS + 3,
    }


if __name__ == "__main__":
    command.run("gateway.path", __doc__, measure, add_options=add_options)

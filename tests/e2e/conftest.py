"""`cortex up` as real processes on free ports, once for the whole folder."""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.workers import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401
from tests.fleet.servers import PostgresServer, RedisServer
from tests.stubs.tls import TLS, post

READY_S = 180
TINY = "helexa-tiny"


def clean_environment() -> dict[str, str]:
    """Ours, without the settings that the unit tests made."""
    drop = ("CORTEX_", "NEURON_", "DJANGO_", "PROMETHEUS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    pure = (
        {"CORTEX_PURE_PYTHON": os.environ["CORTEX_PURE_PYTHON"]} if "CORTEX_PURE_PYTHON" in os.environ else {}
    )
    return kept | pure | {"COLUMNS": "200", "NEURON_DEVICE__THREADS": "1"}


def free_base_port() -> int:
    """N such that N to N+3 are free, and are given to nobody else while this process lives.

    Below the ports that the kernel gives to outgoing connections, which would take a killed server's.
    """
    for base in range(10_000, 20_000, 5):
        try:
            claim = socket.create_server(("127.0.0.1", base + 4))
        except OSError:  # claimed, by us or by another run
            continue
        atexit.register(claim.close)
        with suppress(OSError):
            for port in range(base, base + 4):
                socket.create_server(("127.0.0.1", port)).close()
            return base
    raise AssertionError("no four free ports in a row")


@dataclass
class Stack:
    """A running `cortex up`."""

    home: Path
    base_port: int
    process: subprocess.Popen[bytes]
    output: list[str] = field(default_factory=list)
    _drainer: threading.Thread | None = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.base_port}"

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self.base_port + 1}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.base_port + 2}"

    @property
    def neuron(self) -> str:
        return f"http://127.0.0.1:{self.base_port + 3}"

    @property
    def text(self) -> str:
        return "".join(self.output)

    @property
    def password(self) -> str | None:
        found = re.search(r"password (\S+)", self.text)
        return found[1] if found else None

    def read_until(self, words: str, within_s: float) -> None:
        assert self.process.stderr is not None
        deadline = time.monotonic() + within_s
        while words not in self.text:
            assert time.monotonic() < deadline, (
                f"no {words!r} within {within_s} s:\n{self.text}\n{self.logs()}"
            )
            assert self.process.poll() is None, f"cortex up ended:\n{self.text}\n{self.logs()}"
            if select.select([self.process.stderr], [], [], 0.2)[0]:
                self.output.append(os.read(self.process.stderr.fileno(), 65536).decode())

    def drain(self) -> None:
        """Read on in a thread: what writes to a full pipe waits."""
        self._drainer = threading.Thread(target=self._read_to_the_end, daemon=True)
        self._drainer.start()

    def _read_to_the_end(self) -> None:
        assert self.process.stderr is not None
        while data := os.read(self.process.stderr.fileno(), 65536):
            self.output.append(data.decode(errors="replace"))

    def logs(self) -> str:
        files = sorted((self.home / "logs").glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text()[-2000:]}" for file in files)

    def process_of(self, name: str) -> psutil.Process:
        state = json.loads((self.home / "processes.json").read_text())
        return psutil.Process(next(item["pid"] for item in state["processes"] if item["name"] == name))

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Drain what it still says, so that it can't block on a full pipe; its exit code."""
        assert self.process.stderr is not None
        if self._drainer:
            self._drainer.join(60)
        with self.process.stderr:
            self.output.append(self.process.stderr.read().decode())
        return self.process.wait(60)

    def chat(self, question: str, **extra) -> httpx.Response:
        body = {"model": TINY, "messages": [{"role": "user", "content": question}], "temperature": 0} | extra
        return post(f"{self.api}/v1/chat/completions", json=body, timeout=120)

    def cortex(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return cortex(*arguments, "--home", str(self.home))

    def eventually(self, condition: Callable[[], object], within_s: float = 60) -> None:
        deadline = time.monotonic() + within_s
        while True:
            try:
                if condition():
                    return
            except (httpx.HTTPError, psutil.Error, OSError):
                pass
            assert time.monotonic() < deadline, f"did not happen within {within_s} s\n{self.logs()}"
            time.sleep(0.1)


def cortex(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cortex_site", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=clean_environment(),
    )


def start_stack(home: Path, base_port: int, *arguments: str, **env: str) -> Stack:
    command = [sys.executable, "-m", "cortex_site", "up", "--home", str(home), "--base-port", str(base_port)]
    process = subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=clean_environment() | env,
    )
    return Stack(home, base_port, process)


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    running = start_stack(tmp_path_factory.mktemp("home"), free_base_port())
    try:
        running.read_until("Ctrl-C ends it", READY_S)
        yield running
    finally:
        family = running.family()
        running.stop() if running.process.poll() is None else running.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
    assert not alive, f"left behind: {alive}"


@pytest.fixture(scope="module")
def server_folder() -> Iterator[Path]:
    """Not one of pytest's: each pytest that starts closes those to other users, and PostgreSQL is one."""
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def redis(server_folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(server_folder)
    server.start()
    yield server
    server.client.close()
    server.stop()


@pytest.fixture(scope="module")
def database(server_folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(server_folder)
    yield server
    server.remove()


@pytest.fixture(scope="session")
def admin(stack):
    """A browser's session in the admin."""
    with httpx.Client(verify=TLS, base_url=stack.admin, follow_redirects=True, timeout=30) as client:
        client.get("/admin/login/")
        form = {
            "username": "admin",
            "password": stack.password,
            "csrfmiddlewaretoken": client.cookies["cortex_csrf"],
        }
        answer = client.post("/admin/login/?next=/admin/", data=form, headers={"referer": stack.admin})
        assert "Log out" in answer.text
        yield client

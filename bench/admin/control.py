"""The control plane under test, as `cortex serve` starts it, and somebody who is signed in."""

from __future__ import annotations

import base64
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.processes import free_ports, wait_for

READY_S = 60
_PING, _PONG = 0x89, 0x8A
_TWO_BYTES, _EIGHT_BYTES = 126, 127  # lengths that say how long the length is


@dataclass(frozen=True, slots=True)
class Control:
    """A running control plane; `session` is the cookie of a superuser."""

    port: int
    pid: int
    session: str
    poll_interval_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        cookies = {"cortex_session": self.session}
        return httpx.Client(base_url=self.url, cookies=cookies, timeout=60, trust_env=False)

    @contextmanager
    def live_page(self) -> Iterator[None]:
        """Hold `/ws/fleet` open and read all that comes, as the live page does."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET /ws/fleet HTTP/1.1",
            f"host: 127.0.0.1:{self.port}",
            f"origin: {self.url}",
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            f"sec-websocket-key: {key}",
            f"cookie: cortex_session={self.session}",
        )
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as page:
            page.sendall("\r\n".join((*lines, "", "")).encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += page.recv(1)
            assert head.startswith(b"HTTP/1.1 101"), head
            reader = threading.Thread(target=_read_on, args=(page,), daemon=True)
            reader.start()
            yield
            page.shutdown(socket.SHUT_RDWR)
            reader.join()


def _read_on(page: socket.socket) -> None:
    """Read frames (RFC 6455, §5.2), and answer pings, without which the server takes the page for gone."""
    page.settimeout(None)
    with suppress(OSError, struct.error), page.makefile("rb") as frames:
        while True:
            first, size = struct.unpack("!BB", frames.read(2))
            if size == _TWO_BYTES:
                (size,) = struct.unpack("!H", frames.read(2))
            elif size == _EIGHT_BYTES:
                (size,) = struct.unpack("!Q", frames.read(8))
            payload = frames.read(size)
            if first == _PING:
                page.sendall(bytes((_PONG, 0x80 | len(payload), 0, 0, 0, 0)) + payload)  # masked with zeros


@contextmanager
def running(folder: Path) -> Iterator[Control]:
    """The control plane on a free port, with the database that this process is set up on."""
    from cortex_site.config import current  # noqa: PLC0415 - Django is set up now

    port = next(free_ports())
    command = (
        sys.executable,
        "-m",
        "cortex_site.site.control",
        "-b",
        "127.0.0.1",
        "-p",
        str(port),
    )
    with (
        (folder / "control.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            made = Control(port, process.pid, _sign_in(), current().poll.interval_s)
            with made.client() as client:
                wait_for(
                    lambda: client.get("/admin/").status_code == 200,
                    "the control plane",
                    READY_S,
                    not_yet=(httpx.TransportError,),
                )
            yield made
        finally:
            process.terminate()


def _sign_in() -> str:
    """The key of a superuser's session."""
    from django.contrib.auth import get_user_model  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    client = Client()
    client.force_login(get_user_model().objects.create_superuser("bench"))
    return client.cookies["cortex_session"].value

"""Hugging Face's hub for the library: repositories of a folder, over HTTP on the loopback interface.

`go_on` keeps the bodies of large files back until it is set, so that a download can be looked at.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
LARGE = 1 << 16


class FakeHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # with OWNER/NAME/FILES
        self.go_on = threading.Event()
        self.go_on.set()
        self.given: list[str] = []  # the files whose bodies were asked for
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo: str) -> dict[str, Path]:
        folder = self.folder / repo
        return {
            file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()
        }


@contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    hub = FakeHub(folder)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._tell("/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts:
            self._give("/".join(parts[:2]), "/".join(parts[4:]), with_body=with_body)
        else:
            self._refuse()

    def _tell(self, repo: str, rest: list[str]) -> None:
        files = self.server.files(repo)
        if not files:
            self._refuse()
            return
        sizes = {name: file.stat().st_size for name, file in files.items()}
        told: Any = {
            "id": repo,
            "sha": COMMIT,
            "siblings": [{"rfilename": n, "size": s} for n, s in sizes.items()],
        }
        if rest[:1] == ["tree"]:
            told = [{"type": "file", "path": n, "size": s, "oid": _etag(files[n])} for n, s in sizes.items()]
        self._send(200, json.dumps(told).encode(), {"content-type": "application/json"})

    def _give(self, repo: str, name: str, *, with_body: bool) -> None:
        file = self.server.files(repo).get(name)
        if file is None:
            self._refuse()
            return
        data = file.read_bytes()
        if with_body:
            self.server.given.append(name)
        headers = {"x-repo-commit": COMMIT, "etag": f'"{_etag(file)}"'}
        if with_body and len(data) > LARGE:
            self.send_response(200)
            for header in (headers | {"content-length": str(len(data))}).items():
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.server.go_on.wait(20)
            with suppress(OSError):  # the download was ended
                self.wfile.write(data[len(data) // 2 :])
            return
        self._send(200, data, headers, with_body=with_body)

    def _refuse(self) -> None:
        self._send(404, b"", {"x-error-code": "RepoNotFound", "x-error-message": "Repository not found"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool = True) -> None:
        self.send_response(status)
        for header in (headers | {"content-length": str(len(body))}).items():
            self.send_header(*header)
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()

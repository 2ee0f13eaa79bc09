"""One running language server, asked for the problems of one file after the other.

A server that offers `textDocument/diagnostic` is asked by it; of others the published diagnostics count, once
no newer ones come. Only the last file asked about is open: the server reads all others from disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helexa_acp.language_servers import LanguageServer
from helexa_acp.tools.lsp.framing import BadFrameError, FrameSplitter, encode
from helexa_acp.tools.lsp.problem import Problem, parse_problems
from helexa_acp.tools.process_group import close_pipes, end_group

SETTLE_S = 0.3  # in which no newer diagnostics come: servers publish those of several analyses one by one
SILENCE_S = 2.0  # after which a server that answers has nothing new to publish
RETRY_S = 0.1
MAX_KEPT = 1000  # files whose diagnostics are kept
READ_BYTES = 65536

_METHOD_NOT_FOUND = -32601
_ASK_AGAIN = frozenset((-32800, -32801, -32802))  # cancelled, content modified, cancelled by the server
_CAPABILITIES = {
    "general": {"positionEncodings": ["utf-16"]},
    "textDocument": {
        "synchronization": {"didSave": True},
        "publishDiagnostics": {"versionSupport": True},
        "diagnostic": {},
    },
    "workspace": {"configuration": True, "workspaceFolders": True, "didChangeWatchedFiles": {}},
    "window": {"workDoneProgress": True},
}


log = logging.getLogger(__name__)


class ServerError(Exception):
    """The server does not run, or does not speak the protocol."""


class RefusedError(ServerError):
    """The server answered a request with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Published:
    number: int  # in the order of arrival
    version: int | None  # of the file; None if the server does not tell
    found: Any


class RunningServer:
    """A process of a server, which `start` makes and `aclose` ends."""

    def __init__(
        self, process: asyncio.subprocess.Process, server: LanguageServer, roots: list[Path]
    ) -> None:
        self._process = process
        self._server = server
        self._folders = [{"uri": root.as_uri(), "name": root.name} for root in roots]
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._open: tuple[str, int] | None = None  # address and version
        self._published: dict[str, _Published] = {}  # the last of each file
        self._num_published = 0
        self._news = asyncio.Event()
        self._pulls = False
        self._fault = ""  # in what it has written
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, server: LanguageServer, program: str, roots: list[Path], env: Mapping[str, str]
    ) -> RunningServer:
        """Return a server that has been started, but has not answered yet. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            program,
            *server.args,
            cwd=roots[0],
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        return cls(process, server, roots)

    async def initialize(self) -> None:
        """Raises ServerError."""
        root = self._folders[0]["uri"]
        params = {"processId": os.getpid(), "rootUri": root, "workspaceFolders": self._folders}
        answer = await self._request("initialize", {**params, "capabilities": _CAPABILITIES})
        able = answer.get("capabilities") if isinstance(answer, dict) else None
        self._pulls = isinstance(able, dict) and able.get("diagnosticProvider") is not None
        self._notify("initialized", {})

    def changed(self, paths: Iterable[Path]) -> None:
        """Tell the server that files on disk are new or have changed; which of both is not known here."""
        changes = [{"uri": path.as_uri(), "type": kind} for path in paths for kind in (1, 2)]
        if changes:
            self._notify("workspace/didChangeWatchedFiles", {"changes": changes})

    async def problems(self, path: Path, text: str) -> list[Problem]:
        """Return the problems of a file with this text, one file at a time. Raises ServerError."""
        uri = path.as_uri()
        version = self._show(uri, text, self._server.languages[path.suffix])
        await self._drain()
        return parse_problems(await (self._pull(uri) if self._pulls else self._pushed(uri, version)))

    async def aclose(self) -> None:
        """End the process with all that it has started, at once."""
        await end_group(self._process)
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        close_pipes(self._process)

    def _show(self, uri: str, text: str, language: str) -> int:
        """Give the server the text of a file, and return its version."""
        document = {"uri": uri, "languageId": language, "version": 1, "text": text}
        before, self._open = self._open, (uri, 1)
        if before is not None and before[0] == uri:
            self._open = (uri, before[1] + 1)
            identifier = {"uri": uri, "version": before[1] + 1}
            self._notify(
                "textDocument/didChange", {"textDocument": identifier, "contentChanges": [{"text": text}]}
            )
        else:
            self._notify("textDocument/didOpen", {"textDocument": document})
            if before is not None:  # only now, so that the server keeps what both have in common
                self._notify("textDocument/didClose", {"textDocument": {"uri": before[0]}})
        self._notify("textDocument/didSave", {"textDocument": {"uri": uri}})
        return self._open[1]

    async def _pull(self, uri: str) -> Any:
        while True:
            try:
                report = await self._request("textDocument/diagnostic", {"textDocument": {"uri": uri}})
            except RefusedError as error:
                if error.code not in _ASK_AGAIN:  # of this file it has nothing to say
                    log.info("language server %s: %s", self._server.name, error)
                    return None
                await asyncio.sleep(RETRY_S)
            else:
                return report.get("items") if isinstance(report, dict) else None

    async def _pushed(self, uri: str, version: int) -> Any:
        """Return the diagnostics that are published of this version, the last ones. Raises ServerError."""
        seen = await self._first_news(uri, version)
        while seen is not None:
            seen = await _within(SETTLE_S, self._news_of(uri, version, seen))
        return self._published[uri].found if uri in self._published else None

    async def _first_news(self, uri: str, version: int) -> int | None:
        """Return the number of the first diagnostics of this version.

        A server may publish nothing if they are as before: then it is None, once the server has answered
        something else and stayed silent. Raises ServerError.
        """
        news = asyncio.create_task(self._news_of(uri, version, self._num_published))
        answer = asyncio.create_task(self._answer_to_anything(uri))
        try:
            await asyncio.wait({news, answer}, return_when=asyncio.FIRST_COMPLETED)
            return await _within(SILENCE_S, asyncio.shield(news))
        finally:
            news.cancel()
            answer.cancel()
            await asyncio.gather(news, answer, return_exceptions=True)

    async def _news_of(self, uri: str, version: int, seen: int) -> int:
        """Return the number of the next diagnostics of this version after those with the number `seen`."""
        while True:
            self._news.clear()
            latest = self._published.get(uri)
            if latest is not None and latest.number > seen and latest.version in {None, version}:
                return latest.number
            if self._reading.done():
                raise ServerError(self._why_gone())
            await self._news.wait()

    async def _answer_to_anything(self, uri: str) -> None:
        with contextlib.suppress(ServerError):
            await self._request("textDocument/documentSymbol", {"textDocument": {"uri": uri}})

    async def _request(self, method: str, params: dict[str, Any]) -> Any:
        if self._reading.done():
            raise ServerError(self._why_gone())
        self._next_id += 1
        id_, future = self._next_id, asyncio.get_running_loop().create_future()
        self._waiting[id_] = future
        try:
            self._write({"id": id_, "method": method, "params": params})
            await self._drain()
            return await future
        finally:
            self._waiting.pop(id_, None)

    def _notify(self, method: str, params: dict[str, Any]) -> None:
        self._write({"method": method, "params": params})

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        if not self._process.stdin.is_closing():
            self._process.stdin.write(encode(message))

    async def _drain(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            await self._process.stdin.drain()
        except OSError as error:
            raise ServerError(self._why_gone()) from error

    async def _read(self) -> None:
        """Take messages until the process ends or writes something else; then nothing waits any longer."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        frames = FrameSplitter()
        try:
            while chunk := await self._process.stdout.read(READ_BYTES):
                for message in frames.feed(chunk):
                    self._take(message)
        except BadFrameError as error:
            self._fault = str(error)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):  # for the exit code
                    await self._process.wait()
        finally:
            self._news.set()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ServerError(self._why_gone()))

    def _why_gone(self) -> str:
        if self._fault:
            return self._fault
        code = self._process.returncode
        return "it has closed its output" if code is None else f"it ended with exit code {code}"

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"method": str(method), "id": id_}:
                self._write({"id": id_, **self._answer(method, message.get("params"))})
            case {
                "method": "textDocument/publishDiagnostics",
                "params": {"uri": str(uri), "diagnostics": found, **rest},
            }:
                self._keep(uri, rest.get("version"), found)
            case {"id": int(id_)} if "method" not in message and id_ in self._waiting:
                self._settle(self._waiting[id_], message)

    def _keep(self, uri: str, version: Any, found: Any) -> None:
        self._num_published += 1
        self._published.pop(uri, None)  # the latest come last
        version = version if isinstance(version, int) else None
        self._published[uri] = _Published(self._num_published, version, found)
        if len(self._published) > MAX_KEPT:
            del self._published[next(iter(self._published))]
        self._news.set()

    def _settle(self, future: asyncio.Future[Any], message: dict[str, Any]) -> None:
        if future.done():
            return
        match message.get("error"):
            case None:
                future.set_result(message.get("result"))
            case {"code": int(code), "message": text}:
                future.set_exception(RefusedError(code, str(text)))
            case error:
                future.set_exception(ServerError(f"an error that is none: {error!r}"))

    def _answer(self, method: str, params: Any) -> dict[str, Any]:
        """Return the result of a request that the server makes, or the error."""
        match method, params:
            case "workspace/configuration", {"items": list(items)}:
                return {"result": [self._setting(item) for item in items]}
            case "workspace/workspaceFolders", _:
                return {"result": self._folders}
            case "workspace/applyEdit", _:
                return {"result": {"applied": False}}
            case (("client/registerCapability" | "client/unregisterCapability"), _):
                return {"result": None}
            case (("window/workDoneProgress/create" | "window/showMessageRequest"), _):
                return {"result": None}
        return {"error": {"code": _METHOD_NOT_FOUND, "message": f"there is no {method}"}}

    def _setting(self, item: Any) -> Any:
        section = item.get("section") if isinstance(item, dict) else None
        return self._server.settings.get(section) if isinstance(section, str) else None


async def _within(limit_s: float, work: Awaitable[int]) -> int | None:
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError:
        return None

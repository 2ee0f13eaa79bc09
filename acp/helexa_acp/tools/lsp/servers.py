"""The language servers of a session, which say what they think of each file that it edits.

An edit waits a bounded time for all of them together. A server that is late is not waited for again before it
has answered; one that fails is not asked again. Both are told once. All end with the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.language_servers import DiagnosticsSettings, LanguageServer
from helexa_acp.tools.lsp.problem import Problem, report
from helexa_acp.tools.lsp.server import RunningServer, ServerError
from helexa_acp.tools.read import SKIPPED

log = logging.getLogger(__name__)

MAX_WALKED = 20_000  # files that are looked at for changes by commands
MAX_TOLD = 1000
MAX_TEXT_CHARS = 2_000_000  # of a file that servers are asked about
_PROJECT_FOLDERS = (".venv/bin", "venv/bin", "env/bin", "node_modules/.bin")
_PYTHON_FOLDERS = (".venv", "venv", "env")


@dataclass(frozen=True, slots=True)
class FoundServer:
    server: LanguageServer
    program: str
    needs_consent: bool  # it, or what it runs, may be the project's own code


Permit = Callable[[FoundServer, CancelToken], Awaitable[bool]]
Notice = Callable[[str, str, str], None]


@dataclass(eq=False, slots=True)
class _Slot:
    """A server that may run, from the first of its files on."""

    found: FoundServer
    running: RunningServer | None = None
    asked: set[asyncio.Task[list[Problem] | None]] = field(default_factory=set)
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    has_failed: bool = False
    is_late: bool = False
    is_told_late: bool = False

    @property
    def name(self) -> str:
        return self.found.server.name

    @property
    def is_free(self) -> bool:
        return not (self.has_failed or self.is_late)


class LanguageServers:
    """Owns the servers' processes. `permit` asks the user whether one may run; `notice` tells the user."""

    def __init__(
        self,
        settings: DiagnosticsSettings,
        roots: list[Path],
        env: Mapping[str, str],
        permit: Permit,
        notice: Notice,
    ) -> None:
        self._settings = settings
        self._roots = roots
        self._env = env
        self._permit = permit
        self._notice = notice
        self._slots: dict[LanguageServer, _Slot | None] = {}  # None: not there, or not permitted
        self._opening = asyncio.Lock()
        self._looked_ns = time.time_ns()

    async def report(self, path: Path, text: str, cancel: CancelToken, *, commands_have_run: bool) -> str:
        """Return what the servers say of a file that now has this text; nothing if nothing is wrong."""
        asked: dict[_Slot, asyncio.Task[list[Problem] | None]] = {}
        if len(text) > MAX_TEXT_CHARS:
            return ""
        try:
            slots = await cancel.race(self._slots_for(path, cancel))
            if commands_have_run and slots:
                await self._tell_what_changed(cancel)
            for slot in (slot for slot in slots if slot.is_free):
                asked[slot] = task = asyncio.create_task(self._ask(slot, path, text))
                slot.asked.add(task)
                task.add_done_callback(slot.asked.discard)
            if asked:
                await cancel.race(asyncio.wait(asked.values(), timeout=self._settings.timeout_s))
        except Cancelled:
            return ""
        return "\n".join(filter(None, (self._said(slot, task) for slot, task in asked.items())))

    async def aclose(self) -> None:
        """End all servers at once, also those that are still starting."""
        slots = [slot for slot in self._slots.values() if slot is not None]
        tasks = [task for slot in slots for task in slot.asked]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(slot.running.aclose() for slot in slots if slot.running is not None))

    async def _slots_for(self, path: Path, cancel: CancelToken) -> list[_Slot]:
        servers = [server for server in self._settings.servers if path.suffix in server.languages]
        async with self._opening:  # so that the user is asked about each once
            for server in servers:
                if server not in self._slots:
                    self._slots[server] = await self._opened(server, cancel)
        return [slot for server in servers if (slot := self._slots[server]) is not None]

    async def _opened(self, server: LanguageServer, cancel: CancelToken) -> _Slot | None:
        found = await asyncio.to_thread(find_server, server, self._roots, self._env.get("PATH"))
        if found is None or (found.needs_consent and not await self._permit(found, cancel)):
            return None
        return _Slot(found)

    async def _ask(self, slot: _Slot, path: Path, text: str) -> list[Problem] | None:
        """Return the problems of the file; None if the server fails, which is told and remembered."""
        try:
            async with slot.one_at_a_time:
                if slot.has_failed:
                    return None
                if slot.running is None:
                    program, env = slot.found.program, self._env
                    slot.running = await RunningServer.start(slot.found.server, program, self._roots, env)
                    await slot.running.initialize()
                slot.running.changed([path])
                return await slot.running.problems(path, text)
        except (ServerError, OSError) as error:
            await self._fail(slot, error)
            return None
        finally:
            slot.is_late = False

    async def _fail(self, slot: _Slot, error: Exception) -> None:
        if slot.has_failed:
            return
        slot.has_failed = True
        log.warning("language server %s: %s", slot.name, error)
        self._notice("warning", f"{slot.name} gives no diagnostics in this session", str(error))
        if slot.running is not None:
            await slot.running.aclose()

    def _said(self, slot: _Slot, task: asyncio.Task[list[Problem] | None]) -> str:
        if task.done():
            return "" if task.cancelled() else report(slot.name, task.result() or [])
        slot.is_late = True
        if not slot.is_told_late:
            slot.is_told_late = True
            limit = f"{self._settings.timeout_s:g} s"
            why = f"It has not answered within {limit}; no edit waits for it again until it has"
            self._notice("info", f"{slot.name} is late with its diagnostics", why)
        return ""

    async def _tell_what_changed(self, cancel: CancelToken) -> None:
        """Tell the servers of the files that commands may have changed since the last look.

        Raises Cancelled.
        """
        running = [
            (slot, slot.running) for slot in self._slots.values() if slot and slot.is_free and slot.running
        ]
        suffixes = {suffix for slot, _ in running for suffix in slot.found.server.languages}
        since_ns, self._looked_ns = self._looked_ns, time.time_ns()
        if suffixes:
            looking = asyncio.to_thread(_changed_files, self._roots, suffixes, since_ns)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.timeout_s):
                    changed = await cancel.race(looking)
                    for _, server in running:
                        server.changed(changed)


def find_server(server: LanguageServer, roots: list[Path], path: str | None) -> FoundServer | None:
    """Return the server with its program: from `path`, else from the project's own environments."""
    own = os.pathsep.join(str(roots[0] / folder) for folder in _PROJECT_FOLDERS)
    program = shutil.which(server.command, path=path) or shutil.which(server.command, path=own)
    if program is None:
        return None
    places = (Path(program).absolute(), Path(program).resolve())
    is_projects = any(place.is_relative_to(root) for place in places for root in roots)
    consent = is_projects or (server.may_run_project_code and not server.is_configured)
    return FoundServer(_with_python(server, roots[0]), program, consent)


def _with_python(server: LanguageServer, root: Path) -> LanguageServer:
    """Return the server, told of the project's interpreter, which knows what is installed."""
    pythons = (root / folder / "bin" / "python" for folder in _PYTHON_FOLDERS)
    python = next((python for python in pythons if python.exists()), None)
    if python is None or "python" in server.settings or "python" not in server.languages.values():
        return server
    return replace(server, settings={**server.settings, "python": {"pythonPath": str(python)}})


def _changed_files(roots: list[Path], suffixes: set[str], since_ns: int) -> list[Path]:
    """Return the files of these kinds that have changed since a time, among as many as are looked at."""
    found: list[Path] = []
    num_left = MAX_WALKED
    for folder, names, files in (step for root in roots for step in os.walk(root)):
        names[:] = [name for name in names if name not in SKIPPED]
        for path in (Path(folder) / name for name in files if Path(name).suffix in suffixes):
            with contextlib.suppress(OSError):
                found += [path] if path.lstat().st_mtime_ns >= since_ns else []
        num_left -= len(files)
        if num_left < 0:
            break
    return found[:MAX_TOLD]

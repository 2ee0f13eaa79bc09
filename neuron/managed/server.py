"""One run of a model's server: its start, its watch, its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from neuron.config import ManagedEngineSettings, RestartSettings
from neuron.managed.command import Launch
from neuron.managed.engine import Engine
from neuron.managed.log import ServerLog
from neuron.managed.process import ServerProcess
from neuron.managed.upstream import Upstream, settle

log = logging.getLogger("neuron.managed")

LOOK_S = 0.1  # between two looks at whether a server is ready
WELL_S = 5.0  # at most, between two looks at whether it still is
LAST_WORDS_S = 2.0  # for what a server that ended has written
HANGS_S = 60.0  # of silence after a line of the log that says why it cannot start
QUOTED_LINES = 5


class EngineStartError(Exception):
    """A server did not become ready, for the reason `code`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class EngineServer:
    """A server from its start to its end. `progressed` is called with the fraction that it has loaded."""

    def __init__(
        self,
        engine: Engine,
        launch: Launch,
        output: ServerLog,
        *,
        settings: ManagedEngineSettings,
        restart: RestartSettings,
        progressed: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._launch = launch
        self._model = launch.model
        self._log = output
        self._settings = settings
        self._restart = restart
        self._progressed = progressed
        self._process: ServerProcess | None = None
        self._following: asyncio.Task[str] | None = None
        self._has_ready_line = engine.ready_line is None
        self._symptom: tuple[str, str] | None = None  # code and line
        self._heard_at = 0.0
        self.upstream = Upstream(launch.model, launch.port, launch.secret, settings.silence_s)

    @property
    def pids(self) -> list[int]:
        return self._process.pids if self._process else []

    @property
    def host_mb(self) -> int:
        """The host's memory that it holds, MiB."""
        return self._process.host_mb if self._process else 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    # --- start ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Return when the server is ready. Raises `EngineStartError`; `end` must be called in any case."""
        self._heard_at = time.monotonic()
        try:
            self._process = await ServerProcess.start(self._launch, self._settings.stop_grace_s)
        except OSError as error:
            raise EngineStartError("engine_failed", f"{self._launch.argv[0]}: {error}") from error
        self._following = asyncio.create_task(self._follow(self._process), name=f"log of {self._model}")
        ready = asyncio.create_task(self._await_ready(), name=f"start of {self._model}")
        try:
            await asyncio.wait({self._following, ready}, return_when=asyncio.FIRST_COMPLETED)
            if not self._following.done():
                return ready.result()
        finally:
            await settle(ready)
        raise self._why(f"The server ended while it started ({self._following.result()})")

    async def _follow(self, process: ServerProcess) -> str:
        """Read the log until the server has ended; return how it did."""
        reading = asyncio.create_task(self._read(process))
        try:
            how = await process.wait()
            await asyncio.wait({reading}, timeout=LAST_WORDS_S)
        finally:
            await settle(reading)
        return how

    async def _read(self, process: ServerProcess) -> None:
        while data := await process.read():
            self._heard_at = time.monotonic()
            for line in self._log.feed(data):
                log.debug("%s", line, extra={"model": self._model})
                self._interpret(line)

    def _interpret(self, line: str) -> None:
        if self._engine.ready_line and self._engine.ready_line.search(line):
            self._has_ready_line = True
        if self._engine.progress and (found := self._engine.progress.search(line)):
            self._progressed(min(100, int(found[1])) / 100)
        if self._symptom is None:
            codes = (symptom.code for symptom in self._engine.symptoms if symptom.pattern.search(line))
            if code := next(codes, None):
                self._symptom = code, line

    async def _await_ready(self) -> None:
        while not (self._has_ready_line and await self.upstream.is_well(self._engine.ready_path)):
            silence_s = self._restart.load_silence_s
            if self._symptom:
                silence_s = min(silence_s, HANGS_S)
            if time.monotonic() - self._heard_at >= silence_s:
                raise self._why(f"The server was silent for {silence_s:g} s while it started")
            await asyncio.sleep(LOOK_S)

    def _why(self, what: str) -> EngineStartError:
        """The error of a failed start: by the log's first line that explains it, else with its last lines."""
        if self._symptom:
            code, line = self._symptom
            return EngineStartError(code, f"{what}: {line}")
        if "SIGKILL" in what:
            return EngineStartError("insufficient_memory", f"{what}, as the system does for want of memory.")
        if self._following and not self._following.done():
            return EngineStartError("load_timeout", f"{what}.")
        return EngineStartError("engine_failed", ": ".join([what, *self._log.lines[-QUOTED_LINES:]]))

    # --- watch ----------------------------------------------------------------------------------------

    async def watch(self, looked: Callable[[], None]) -> str:
        """Return why the server has to go, once it has ended or is stuck.

        `looked` is called whenever it was found well.
        """
        assert self._following
        well = asyncio.create_task(self._watch_health(looked), name=f"health of {self._model}")
        try:
            await asyncio.wait({self._following, well}, return_when=asyncio.FIRST_COMPLETED)
            return self._following.result() if self._following.done() else well.result()
        finally:
            await settle(well)

    async def _watch_health(self, looked: Callable[[], None]) -> str:
        patience_s = self._restart.wedged_after_s
        pause_s = min(WELL_S, patience_s / 4)
        well_at = time.monotonic()
        while (silence := time.monotonic() - well_at) < patience_s:
            await asyncio.sleep(pause_s)
            if await self.upstream.is_well(self._engine.ready_path, pause_s):
                well_at = time.monotonic()
                looked()
        return f"did not answer {self._engine.ready_path} for {silence:.0f} s"

    # --- sleep and end --------------------------------------------------------------------------------

    async def sleep(self) -> None:
        """Have the server give its devices' memory back. Raises `ApiError`."""
        assert self._engine.sleep
        body = self._engine.sleep.body
        await self.upstream.command(self._engine.sleep.sleep, body, self._restart.load_silence_s)

    async def wake(self) -> None:
        """Have it take the memory again. Raises `ApiError`."""
        assert self._engine.sleep
        body = self._engine.sleep.body
        await self.upstream.command(self._engine.sleep.wake, body, self._restart.load_silence_s)

    async def end(self) -> None:
        """End the process, if one was started, with all its descendants."""
        if self._process:
            await self._process.end()
        if self._following:
            await self._following
        await self.upstream.close()

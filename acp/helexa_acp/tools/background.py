"""Commands that run in the background, such as servers and watchers. They end with their session."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from helexa_acp.cancellation import CancelToken
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.processes import ChildProcesses, ProcessResult, RunningProcess
from helexa_acp.tools.truncation import one_line

MAX_RUNNING = 16
MAX_KEPT = 100  # that have ended and can still be looked at
OUTPUT_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class BackgroundCommand:
    id: str
    command: str
    running: RunningProcess


class BackgroundCommands:
    """The commands of one session, which it runs as child processes."""

    def __init__(self, processes: ChildProcesses) -> None:
        self._processes = processes
        self._commands: dict[str, BackgroundCommand] = {}
        self._num_started = 0

    async def start(self, command: str, argv: list[str], cwd: str) -> BackgroundCommand:
        """Raises ToolError if it cannot be started, or too many are running."""
        ended = [known for known in self._commands.values() if known.running.has_ended]
        if len(self._commands) - len(ended) >= MAX_RUNNING:
            raise ToolError(f"{MAX_RUNNING} commands run in the background; stop one of them")
        for known in ended[: max(0, len(ended) - MAX_KEPT)]:
            del self._commands[known.id]
        try:
            running = await self._processes.start(argv, cwd, OUTPUT_LIMIT_BYTES)
        except OSError as error:
            raise ToolError(f"the command could not be run: {error}") from error
        self._num_started += 1
        started = BackgroundCommand(f"bg{self._num_started}", command, running)
        self._commands[started.id] = started
        return started

    def find(self, id_: str) -> BackgroundCommand:
        """Raises ToolError if there is no such command."""
        found = self._commands.get(id_)
        if found is None:
            known = ", ".join(self._commands) or "none was started"
            raise ToolError(f"there is no background command {id_!r}; there are: {known}")
        return found

    def all(self) -> list[str]:
        """Return a line for each command."""
        return [
            f"{known.id} [{'ended' if known.running.has_ended else 'running'}] {one_line(known.command)}"
            for known in self._commands.values()
        ]

    async def wait(self, command: BackgroundCommand, timeout_s: float, cancel: CancelToken) -> ProcessResult:
        """Wait until it has ended, at most `timeout_s`. Return its new output. Raises Cancelled."""
        timed_out = False
        try:
            async with asyncio.timeout(timeout_s):
                await cancel.race(command.running.wait())
        except TimeoutError:
            timed_out = True
        return await self.look(command, timed_out=timed_out)

    async def stop(self, command: BackgroundCommand) -> ProcessResult:
        await self._processes.end(command.running)
        return command.running.take()

    async def look(self, command: BackgroundCommand, *, timed_out: bool = False) -> ProcessResult:
        """Return the output since the last look."""
        if command.running.has_ended:  # what it has left running ends with it
            await self._processes.end(command.running)
        return command.running.take(timed_out=timed_out)

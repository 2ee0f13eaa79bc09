"""Fakes of what tools need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helexa_acp.cancellation import CancelToken
from helexa_acp.rpc.framing import INTERNAL_ERROR, RpcError
from helexa_acp.tools import schema
from helexa_acp.tools.background import BackgroundCommands
from helexa_acp.tools.builtin import builtin_tools
from helexa_acp.tools.files import Files
from helexa_acp.tools.processes import ChildProcesses
from helexa_acp.tools.roots import Roots
from helexa_acp.tools.tool import Outcome, ToolContext


class FakeClient:
    """A client whose buffers lie over the disk. If it is `broken`, it cannot read files."""

    def __init__(self, *, files: bool = False, broken: bool = False) -> None:
        self.can_read = self.can_write = files
        self.has_terminal = False
        self.can_fill_forms = False
        self.broken = broken
        self.buffers: dict[str, str] = {}
        self.written: list[str] = []

    async def read_text(self, session_id: str, path: str) -> str:
        if self.broken:
            raise RpcError(INTERNAL_ERROR, "no buffer")
        return self.buffers.get(path, Path(path).read_text())

    async def write_text(self, session_id: str, path: str, content: str) -> None:
        self.buffers[path] = content
        self.written.append(path)


class ToolHarness:
    """Runs tools in a directory without asking for permission."""

    def __init__(
        self, cwd: Path, client: FakeClient | None = None, additional: list[str] | None = None
    ) -> None:
        self.client = client or FakeClient()
        self.cancel = CancelToken()
        self.shown: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.plan: list[dict[str, Any]] = []
        self.copies: list[tuple[Path, bytes | None]] = []
        self.files = Files(self.client, "s")
        self.processes = processes = ChildProcesses()
        self.context = ToolContext(
            "s",
            self.client,
            Roots(str(cwd), additional or []),
            self.files,
            processes,
            BackgroundCommands(processes),
            self.cancel,
            lambda **changes: self.shown.append(changes),
            self.plan.extend,
            self.said.append,
            self._keep_copy,
            self._diagnose,
        )

    async def _keep_copy(self, path: Path, before: bytes | None, after: bytes) -> None:
        self.copies.append((path, before))

    async def _diagnose(self, path: Path, text: str) -> str:
        return ""

    async def prepare(self, name: str, **args: Any):
        tool = builtin_tools()[name]
        schema.check(tool.spec.parameters, args)
        return await tool.prepare(args, self.context)

    async def run(self, name: str, **args: Any) -> Outcome:
        return await (await self.prepare(name, **args)).run()

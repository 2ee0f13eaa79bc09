"""acpx as the client: it runs a task with an agent, and what the tap has recorded becomes a `Trial`."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.agents.contenders import NODE
from bench.agents.endpoint import Asked, Endpoint
from bench.agents.tasks import Seen, Task

TAP = Path(__file__).parent / "tap.py"
TIMEOUT_S = 120


@dataclass
class Trial:
    """One task, done once by one agent."""

    done: bool = False
    why: str = ""  # it is not done, if the client or the agent has told
    initialize_ms: float | None = None
    first_update_ms: list[float] = field(default_factory=list)  # one for each reply with text
    rss_mib: float | None = None
    asked: list[Asked] = field(default_factory=list)


@dataclass(frozen=True)
class Bed:
    """Where trials take place: the agent's command and environment, and the endpoint that it talks to."""

    agent: list[str]
    env: dict[str, str]
    acpx: Path
    endpoint: Endpoint
    root: Path

    async def run(self, task: Task) -> Trial:
        folder, record = self.root / task.name, self.root / f"{task.name}.lines"
        for path, text in task.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        folder.mkdir(exist_ok=True)
        self.endpoint.begin(task.script, str(folder))
        try:
            errors = await self._talk(task, folder, record)
        except TimeoutError:
            errors = f"no end within {TIMEOUT_S} s"
        lines = _recorded(record)
        trial = _trial(lines, self.endpoint.asked)
        trial.done = task.done(_seen(folder, lines, self.endpoint.asked))
        trial.why = "" if trial.done else errors.strip()[-400:]
        return trial

    async def _talk(self, task: Task, folder: Path, record: Path) -> str:
        """Return what acpx has written to its standard error."""
        marked = [f"{prompt} (task {task.name}, turn {turn})" for turn, prompt in enumerate(task.prompts, 1)]
        if len(marked) == 1 and not task.cancelled:
            return await self._acpx(folder, record, "exec", marked[0])
        errors = await self._acpx(folder, record, "sessions", "new")
        try:
            if task.cancelled:
                return errors + await self._cancelled(folder, record, marked[0])
            for turn, prompt in enumerate(marked):
                if turn and task.resumed:
                    errors += await self._resume(folder, record)
                errors += await self._acpx(folder, record, "prompt", prompt)
        finally:
            errors += await self._acpx(folder, record, "sessions", "close")
        return errors

    async def _resume(self, folder: Path, record: Path) -> str:
        id_ = _session_id(record)
        closed = await self._acpx(folder, record, "sessions", "close")
        return closed + await self._acpx(folder, record, "sessions", "new", "--resume-session", id_)

    async def _cancelled(self, folder: Path, record: Path, prompt: str) -> str:
        turn = asyncio.create_task(self._acpx(folder, record, "prompt", prompt))
        words = asyncio.create_task(self.endpoint.first_words.wait())
        await asyncio.wait({turn, words}, return_when=asyncio.FIRST_COMPLETED)
        words.cancel()
        await asyncio.sleep(0.3)  # until the words are shown
        await self._acpx(folder, record, "cancel")
        errors = await turn
        await asyncio.sleep(0.5)  # until the endpoint has seen that nobody listens
        return errors

    async def _acpx(self, folder: Path, record: Path, *args: str) -> str:
        agent = shlex.join([sys.executable, str(TAP), str(record), *self.agent])
        flags = ["--agent", agent, "--cwd", str(folder), "--format", "json", "--approve-all"]
        process = await asyncio.create_subprocess_exec(
            str(NODE),
            str(self.acpx),
            *flags,
            "--timeout",
            str(TIMEOUT_S),
            *args,
            env=self.env,
            cwd=folder,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(TIMEOUT_S + 10):
                _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return errors.decode("utf-8", "replace")


def environment(home: Path, own: dict[str, str]) -> dict[str, str]:
    """Return the environment of client and agent: a home of its own, and nothing of the user's."""
    home.mkdir(parents=True, exist_ok=True)
    path = f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"
    return {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", "NO_PROXY": "127.0.0.1", **own}


def _recorded(record: Path) -> list[Any]:
    return [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []


def _messages(lines: list[Any], who: str) -> list[tuple[float, dict[str, Any]]]:
    messages = []
    for at, sender, line in lines:
        if sender == who and line.startswith("{"):
            messages.append((at, json.loads(line)))
    return messages


def _session_id(record: Path) -> str:
    lines = _recorded(record)
    ids = [
        message["result"]["sessionId"]
        for _, message in _messages(lines, "agent")
        if isinstance(message.get("result"), dict) and "sessionId" in message["result"]
    ]
    return str(ids[-1]) if ids else "none"


def _trial(lines: list[Any], asked: list[Asked]) -> Trial:
    answers = _messages(lines, "agent")
    starts = [at for at, who, _ in lines if who == "start"]
    ready = [at for at, m in answers if "protocolVersion" in (m.get("result") or {})]
    shown = [at for at, message in answers if _said(message)]
    rss = [int(kib) for _, who, kib in lines if who == "rss"]
    first = [
        (after[0] - request.first_text_at) * 1000
        for request in asked
        if request.first_text_at is not None and (after := [at for at in shown if at > request.first_text_at])
    ]
    return Trial(
        initialize_ms=(ready[0] - starts[0]) * 1000 if ready else None,
        first_update_ms=first,
        rss_mib=max(rss) / 1024 if rss else None,
        asked=list(asked),
    )


def _said(message: dict[str, Any]) -> str:
    """Return the text of a message that is an update with words of the agent, else nothing."""
    update = message.get("params", {}).get("update", {}) if message.get("method") == "session/update" else {}
    return (
        str(update["content"].get("text", "")) if update.get("sessionUpdate") == "agent_message_chunk" else ""
    )


def _seen(folder: Path, lines: list[Any], asked: list[Asked]) -> Seen:
    answers = [message for _, message in _messages(lines, "agent")]
    stops: list[str] = []
    text = ""
    for message in answers:
        stop = (message.get("result") or {}).get("stopReason") if "result" in message else None
        if stop:
            stops.append(stop)
        text += _said(message)
    mine = [request for request in asked if request.place]
    return Seen(
        folder,
        text,
        tuple(stops),
        max((request.tokens for request in mine), default=0),
        any(request.hung_up for request in mine),
        mine[-1].prompt if mine else "",
    )

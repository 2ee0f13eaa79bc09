"""Servers under test: processes on one core, ended together with their children."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.gateway.mock import ANSWER_TEXT, MODEL
from bench.processes import wait_for
from neuron.prctl import die_with_parent

STOP_S = 10.0


def launch(
    stack: ExitStack,
    command: Iterable[str],
    *,
    core: int,
    log: Path,
    env: Mapping[str, str],
    fds: Iterable[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process bound to a core, in a group of its own that `stack` ends."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=dict(env),
            pass_fds=tuple(fds),
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no other thread runs here
        )
    stack.callback(end, process)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True, slots=True)
class Server:
    """A server of chat completions on a port. The CPU time of the processes `also` counts as its own."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    key: str = ""
    verbatim: bool = True
    also: tuple[int, ...] = ()
    second: int | None = None  # the process of a second worker

    @property
    def workers(self) -> list[int]:
        return [self.process.pid] if self.second is None else [self.process.pid, self.second]

    @property
    def pids(self) -> list[int]:
        root = psutil.Process(self.process.pid)
        return [root.pid, *(child.pid for child in root.children(recursive=True)), *self.also]

    @property
    def memory_kib(self) -> float:
        """The private memory of all its processes."""
        return sum(psutil.Process(pid).memory_full_info().uss for pid in self.pids) / 1024

    def wait_until_it_answers(self, within_s: float) -> None:
        """Raises `TimeoutError` with the end of its log."""

        def answers() -> bool:
            if self.process.poll() is not None:
                raise TimeoutError(f"{self.name} ended with {self.process.returncode}: {self._last_words()}")
            return self._answers()

        try:
            wait_for(answers, self.name, within_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self._last_words()}") from None

    def _answers(self) -> bool:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            return ANSWER_TEXT.encode() in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace").strip()[-300:]

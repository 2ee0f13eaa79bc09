"""Runs the parts, in processes of their own, and collects their results as they come.

A device that has failed once can fail everything after it in the same process, and a kernel can hang. A
process that ends or stands still costs the part that it was in; the parts after that get a new one.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.budget import Budget
from bench.gpu.results import PIPE, Journal, Result

ROOT = Path(__file__).parents[2]
# Parts in the order of importance, and the seconds that each may take.
PARTS = {
    "device": 30.0,
    "tests": 120.0,
    "parity": 60.0,
    "decode": 90.0,
    "weights": 75.0,
    "prefill": 40.0,
    "sampler": 25.0,
    "guided": 25.0,
    "decode-large": 60.0,
    "engine": 60.0,
}
ALONE = {"device": "worker", "tests": "tests"}  # parts with a process of their own, by its module
START_S = 90.0  # until a process is in its first part: imports from a cold disk
GRACE_S = 15.0  # beyond a part's own time, before it is killed

Message = dict[str, Any]


class Conductor:
    """Runs parts, each within its slice of seconds. `options` are those of every process that measures,
    `sites` the folders that it imports from; `program` runs a module."""

    def __init__(  # noqa: PLR0913
        self,
        journal: Journal,
        budget: Budget,
        say: Callable[[str], None],
        *,
        sites: Sequence[Path],
        slices: Mapping[str, float] = PARTS,
        options: Sequence[str] = (),
        program: Sequence[str] = (sys.executable, "-m"),
    ) -> None:
        self._journal = journal
        self._budget = budget
        self._say = say
        self._slices = slices
        self._options = list(options)
        self._program = list(program)
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, sites)),
            "OMP_WAIT_POLICY": "passive",  # as in neuron's workers
            "CORTEX_PURE_PYTHON": "1",  # traces, which stand in for graphs, see torch's operations alone
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # of what a machine happens to have
        }

    def run(self, parts: Sequence[str]) -> None:
        """Run each of `parts` once, in order, while there is time."""
        waiting = list(parts)
        while waiting and self._budget.left > 0:
            together = waiting[:1] if waiting[0] in ALONE else [part for part in waiting if part not in ALONE]
            for part in self._run_process(together):
                waiting.remove(part)
        for part in waiting:
            self._add(Result(part, "all of it", ok=None, note="no time left"))

    def _run_process(self, parts: Sequence[str]) -> Sequence[str]:
        """Run `parts` in one process until it ends, and return those that are over."""
        read, write = os.pipe()
        process = subprocess.Popen(
            self._command(parts),
            cwd=ROOT,
            env=self._environment | {PIPE: str(write)},
            pass_fds=[write],
            stdout=sys.stderr,
        )
        os.close(write)
        try:
            over, is_late = self._follow(Lines(read), len(parts))
            if over < len(parts):
                why = "not done in time" if is_late else f"the process ended, {_status(process)}"
                self._add(Result(parts[over], "the rest of it", ok=False, note=why))
        finally:
            process.kill()
            process.wait()
            os.close(read)
        return parts[: over + 1]

    def _command(self, parts: Sequence[str]) -> list[str]:
        module = ALONE.get(parts[0], "worker")
        seconds = [f"{part}={self._slices[part]:g}" for part in parts]
        within = f"--within={self._budget.left:.1f}"
        return [*self._program, f"bench.gpu.{module}", *self._options, within, *seconds]

    def _follow(self, lines: Lines, count: int) -> tuple[int, bool]:
        """Take in messages until the process ends or a part is late.

        Returns how many parts ended, and whether one was late.
        """
        over, limit = 0, Budget(START_S)
        while over < count:
            try:
                message = lines.next(limit.left)
            except TimeoutError:
                return over, True
            if message is None:
                break
            if "begin" in message:
                self._say(f"{message['begin']} …")
                limit = Budget(min(self._slices[message["begin"]], self._budget.left) + GRACE_S)
            elif "end" in message:
                over, limit = over + 1, Budget(GRACE_S)
            else:
                self._add(Result(**message))
        return over, False

    def _add(self, result: Result) -> None:
        self._journal.add(result)
        value = "" if result.value is None else f"{result.value:.5g} {result.unit}"
        self._say("  ".join(filter(None, (f"  {result.title}", value, result.verdict))))


def _status(process: subprocess.Popen[bytes]) -> str:
    try:
        return f"status {process.wait(GRACE_S)}"
    except subprocess.TimeoutExpired:
        return "no status yet"


class Lines:
    """The JSON lines that come out of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._data = b""

    def next(self, within_s: float) -> Message | None:
        """The next message; None at the end. Raises `TimeoutError`."""
        limit = Budget(within_s)
        with selectors.DefaultSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            while b"\n" not in self._data:
                if not selector.select(max(limit.left, 0.0)):
                    raise TimeoutError
                piece = os.read(self._descriptor, 1 << 16)
                if not piece:
                    return None
                self._data += piece
        line, _, self._data = self._data.partition(b"\n")
        message: Message = json.loads(line)
        return message

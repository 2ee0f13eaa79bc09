"""How the processes of gateway and neuron grow, what they compute, and which of them end."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress

import psutil

LOOK_EVERY_S = 0.5
MIB = 1 << 20
# By words of their command lines. Those of the sandbox are made to be killed.
KINDS = {
    "fleet.gateway.worker": "gateway worker",
    "metrics_server": "metrics",
    "daphne": "control",
    "neuron.worker": "device worker",
    "neuron.cli": "daemon",
}


class Watch:
    """Watches the programs and their children from now on."""

    def __init__(self, programs: Mapping[str, subprocess.Popen[bytes] | None]) -> None:
        self._roots = [psutil.Process(program.pid) for program in programs.values() if program]
        self._watched = {process: kind for process in self._all() if (kind := _kind(process))}
        self._start = {process: process.memory_info().rss for process in self._watched}
        self._most = dict(self._start)
        self._cpu: dict[int, float] = {}

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(LOOK_EVERY_S)

    def _look(self) -> None:
        for process in self._watched:
            with suppress(psutil.Error):
                self._most[process] = max(self._most[process], process.memory_info().rss)
        self.cpu_seconds()

    def cpu_seconds(self) -> dict[int, float]:
        """CPU seconds so far of each process of gateway, neuron and our own, ended or not."""
        for process in [*self._all(), *psutil.Process(os.getpid()).children()]:
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._cpu[process.pid] = times.user + times.system
        return dict(self._cpu)

    def growth_mib(self) -> dict[str, int]:
        growth: dict[str, int] = {}
        for process, kind in self._watched.items():
            grown = (self._most[process] - self._start[process]) // MIB
            growth[kind] = max(growth.get(kind, 0), grown)
        return growth

    def deaths(self) -> int:
        return sum(not process.is_running() for process in self._watched)

    def _all(self) -> list[psutil.Process]:
        return [each for root in self._roots for each in (root, *root.children(recursive=True))]


def _kind(process: psutil.Process) -> str | None:
    words = " ".join(process.cmdline())
    return next((kind for mark, kind in KINDS.items() if mark in words), None)

"""The machine that benchmarks run on, and the CPU time that processes took of it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_SCHEDULED = 2  # the kind of a process's clock that its id is made of, as clock_getcpuclockid(3) makes it


def machine() -> dict[str, Any]:
    """The facts that a figure depends on: processor, cores, load, kernel, Python, date."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": Path("/proc/loadavg").read_text().split()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of processes with all their threads, as exact as the kernel counts it."""
    return sum(time.clock_gettime(~pid << 3 | _SCHEDULED) for pid in pids)


def core_busy_s(core: int) -> float:
    """Seconds for which a core was busy since the machine started."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq + steal) / _TICKS
    raise ValueError(f"there is no core {core}")

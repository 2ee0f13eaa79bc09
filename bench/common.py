"""What benchmarks share: the machine, processes and their CPU time, the forms of figures."""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """What a figure must be read with."""
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
    """User and system time of processes with all their threads, in steps of the kernel's tick (10 ms)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def core_busy_s(core: int) -> float:
    """Seconds for which a core did something, since the machine started."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq + steal) / _TICKS
    raise ValueError(f"there is no core {core}")


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the largest; empty when there is nothing."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {
        "p50": ordered[round(last * 0.5)],
        "p99": ordered[round(last * 0.99)],
        "max": ordered[-1],
    }


def median(values: Iterable[float | None]) -> float | None:
    """Of what is there."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def rounded(value: Any, digits: int = 3) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return round(value, digits) if isinstance(value, float) else value


def clean_environment(**extra: str) -> dict[str, str]:
    """Ours without what would configure the processes under test."""
    prefixes = ("CORTEX_", "NEURON_", "DJANGO_", "PROMETHEUS_")
    return {k: v for k, v in os.environ.items() if not k.startswith(prefixes)} | extra


def free_ports() -> Iterator[int]:
    """Below those that the kernel gives to outgoing connections, which would take a killed server's."""
    for port in range(20_000 + os.getpid() % 1000 * 10, 32_000):
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            yield port


def wait_for(condition: Callable[[], bool], what: str, within_s: float) -> None:
    """Poll until it holds; `TimeoutError` naming `what`."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(0.1)


def save(figures: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(figures, indent=2) + "\n")

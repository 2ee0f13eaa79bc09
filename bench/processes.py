"""Processes under test: their environment, their ports, and waiting for them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment and `extra`, without what would configure the processes under test."""
    prefixes = ("CORTEX_", "NEURON_", "DJANGO_", "PROMETHEUS_", "PYTHONDONTWRITEBYTECODE")
    return {k: v for k, v in os.environ.items() if not k.startswith(prefixes)} | extra


def free_ports() -> Iterator[int]:
    """Free ports below those that the kernel gives to outgoing connections, which would take a killed
    server's."""
    for port in range(20_000 + os.getpid() % 1000 * 10, 32_000):
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            yield port


def wait_for(
    condition: Callable[[], bool], what: str, within_s: float, *, not_yet: tuple[type[Exception], ...] = ()
) -> None:
    """Return once `condition` holds. An exception of `not_yet` means that it does not hold yet.

    Raises `TimeoutError`, naming `what`, after `within_s` seconds.
    """
    deadline = time.monotonic() + within_s
    while True:
        with suppress(*not_yet):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(0.1)

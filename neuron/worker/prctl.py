"""What a worker does to itself as a process: who it dies with, what its thread is called."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, where it can (Linux).

    The closed pipe says the same; this also holds when some other process has inherited the daemon's end.
    """
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def name_thread(name: str) -> None:
    """Show `name` for the calling thread in top and py-spy; the kernel cuts it to 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, argument: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)

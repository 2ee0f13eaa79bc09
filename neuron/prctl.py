"""What a process of neuron tells Linux about itself: the parent it dies with, the name of its thread."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    A closed pipe ends the worker as well; this also works if another process has inherited the daemon's end.
    """
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def name_thread(name: str) -> None:
    """Name the calling thread for top and py-spy. The kernel cuts the name to 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, argument: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)

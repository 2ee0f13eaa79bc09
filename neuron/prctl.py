"""What a process of neuron tells Linux about itself: whom it dies with, whom it adopts, its thread's name."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the thread that started it ends.

    A closed pipe ends the worker as well; this also works if another process has inherited the daemon's end.
    """
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(by))


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends, instead of the system's first process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def name_thread(name: str) -> None:
    """Name the calling thread for top and py-spy. The kernel cuts the name to 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, argument: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)

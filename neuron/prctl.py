"""What a process of neuron tells Linux about itself: whom it dies with and adopts, its name and niceness."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_SCHEDULING_GROUP = Path("/proc/self/autogroup")
_GROUP_TRIES = 20
_GROUP_PAUSE_S = 0.1  # the kernel lets unprivileged processes, all together, change one group in that time


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


def be_nice(niceness: int, group: Path = _SCHEDULING_GROUP) -> None:
    """Leave the cores to others as `niceness` says, in this process's session and among all sessions.

    Where the kernel shares the cores among sessions first (sched_autogroup), it heeds a process's niceness
    only within its session, and among sessions only that of their groups.
    """
    os.nice(niceness)
    for _ in range(_GROUP_TRIES):
        try:
            group.write_text(str(niceness), "ascii")
        except BlockingIOError:
            time.sleep(_GROUP_PAUSE_S)
        except OSError:  # there are no such groups
            return
        else:
            return


def _prctl(option: int, argument: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)

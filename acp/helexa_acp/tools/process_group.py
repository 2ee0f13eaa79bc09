"""The end of a child process that leads a group, with all that it has started, at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

log = logging.getLogger(__name__)

STEP_S = 0.12  # after the input is closed, after SIGTERM, after SIGKILL
POLL_S = 0.01


async def end_group(process: asyncio.subprocess.Process) -> None:
    """Close a program's input, then signal its group, until nothing of it is left; in 0.4 s at most."""
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    process.stdin.close()
    for number in (0, signal.SIGTERM, signal.SIGKILL):
        if not _signal_group(process, number) or await _gone(process):
            return
    if process.returncode is None:  # else it is a child that nobody has waited for
        log.warning("process %d is still alive after SIGKILL", process.pid)


async def _gone(process: asyncio.subprocess.Process) -> bool:
    for _ in range(int(STEP_S / POLL_S)):
        if process.returncode is not None and not _signal_group(process, 0):
            return True
        await asyncio.sleep(POLL_S)
    return False


def _signal_group(process: asyncio.subprocess.Process, number: int) -> bool:
    """Send a signal, and return whether the group exists. Its id is the leader's, which may be gone."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # of a zombie, on some systems
        return process.returncode is None
    return True


def close_pipes(process: asyncio.subprocess.Process) -> None:
    """Close the pipes, which a process that has left the group may hold open."""
    transport = getattr(process, "_transport", None)  # nothing public closes it
    if transport is not None:
        with contextlib.suppress(PermissionError):
            transport.close()

"""Runs a program, and ends it and all its descendants. Its arguments: GRACE_S PROGRAM ARGUMENTS…

The end comes when the program has ended, when standard input is closed, when the daemon is gone, or by
SIGTERM: first SIGTERM to the process group, after GRACE_S seconds SIGKILL to whatever is left. The kernel
hands descendants over that lose their parent, so those with a session of their own end as well.

The exit status is the program's; 128 and a signal's number when a signal killed it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import psutil

from neuron.prctl import adopt_orphans, die_with_parent

CANNOT_START = 127


class ToldToEndError(Exception):
    """Raised in the main thread by SIGTERM."""


def run() -> NoReturn:
    """Guard the program that the command line names; end with its status."""
    sys.exit(_guard(float(sys.argv[1]), sys.argv[2:]))


def _guard(grace_s: float, command: list[str]) -> int:
    signal.signal(signal.SIGTERM, _tell)
    die_with_parent(signal.SIGTERM)
    adopt_orphans()
    threading.Thread(target=_await_daemon, daemon=True).start()
    program: subprocess.Popen[bytes] | None = None
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_as_program)  # noqa: PLW1509
        return _status(program.wait())
    except OSError as error:
        sys.stdout.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return CANNOT_START
    except ToldToEndError:
        return _status(_end(program, grace_s)) if program else 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _kill_all()


def _tell(_number: int, _frame: FrameType | None) -> None:
    raise ToldToEndError


def _as_program() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()


def _await_daemon() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _end(program: subprocess.Popen[bytes], grace_s: float) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is in the group as well
    os.killpg(0, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        return program.wait(grace_s)
    program.kill()
    return program.wait()


def _kill_all() -> None:
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            with suppress(psutil.Error):
                process.kill()
        with suppress(ChildProcessError):
            while os.waitpid(-1, 0)[0]:
                pass


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code

"""`python -m neuron.sandbox`: reads calls from standard input and answers each on standard output.

A call that takes too much ends this process: CPU time by SIGXCPU, memory by SIGABRT (what native code does
when it gets none) unless Python notices first. The kernel counts CPU time in whole seconds, so that a call
gets up to one more. Memory is address space on top of what the process has when the call comes.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
from pathlib import Path
from typing import IO

from neuron.prctl import be_nice, die_with_parent
from neuron.sandbox.messages import (
    HEADER_BYTES,
    Answer,
    OutOfMemory,
    Raised,
    Returned,
    SandboxCall,
    decode_call,
    encode,
)

MIB = 1 << 20
NICENESS = 10  # a tenth of the share of whoever streams, where there are more to compute than cores


def main() -> None:
    """Serve until standard input is closed."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    be_nice(NICENESS)
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        while payload := _read(sys.stdin.buffer):
            answers.write(_answer(payload))
            answers.flush()


def _read(calls: IO[bytes]) -> bytes:
    return calls.read(int.from_bytes(calls.read(HEADER_BYTES), "big"))


def _answer(payload: bytes) -> bytes:
    """The frame of the answer to a call."""
    answer: Answer
    try:
        call = decode_call(payload)
        _limit(call)
        return encode(Returned(call.function(*call.arguments, **call.options)))
    except MemoryError:
        answer = OutOfMemory()
    except BaseException as error:  # noqa: BLE001 - a panic in native code is no Exception
        answer = Raised(f"{type(error).__name__}: {error}")
    return encode(answer)


def _limit(call: SandboxCall) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + call.cpu_s)
    _set_limit(resource.RLIMIT_AS, _address_space() + call.memory_mb * MIB)


def _set_limit(kind: int, value: int) -> None:
    """Set a limit that the next call may raise again, as far as this process was ever allowed to."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space() -> int:
    """The bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()

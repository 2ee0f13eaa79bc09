from __future__ import annotations

import asyncio
import gc
import sys

import psutil
import pytest

from neuron import pipe
from neuron.supervisor.worker_process import PipeError, WorkerProcess

SCRIPT = "import os, sys; os.write(int(sys.argv[-1]), bytes.fromhex(sys.argv[1])); sys.exit(int(sys.argv[2]))"
SLEEP = "import time; time.sleep(600)"


async def start(written: bytes, code: int = 0) -> WorkerProcess:
    """A process that writes these bytes to its pipe and ends."""
    return await WorkerProcess.start((sys.executable, "-c", SCRIPT, written.hex(), str(code)))


async def test_frames_are_received_whole_until_the_end():
    status = pipe.Status(1, 2, [])
    process = await start(pipe.frame([]) + pipe.frame([status, status]))
    assert await process.receive() == []
    assert await process.receive() == [status, status]
    assert await process.receive() is None
    assert await process.end(grace_s=10) == "exit code 0"


@pytest.mark.parametrize(
    "written",
    [b"\xff\xff\xff\xff", b"\0\0\0\1\x01", b"\0\0\0\2\x91\x01"],
    ids=["huge", "no list", "no message"],
)
async def test_invalid_frames_raise_and_the_end_does_not(written):
    process = await start(written)
    with pytest.raises(PipeError):
        await process.receive()
    await process.end()


async def test_truncated_frame_is_the_end():
    process = await start(pipe.frame([pipe.Status(1, 2, [])])[:-1])
    assert await process.receive() is None
    await process.end()


@pytest.mark.parametrize(
    ("code", "reason"), [(3, "exit code 3"), (pipe.EXIT_POISONED, "its device was poisoned")]
)
async def test_end_says_how_the_process_ended(code, reason):
    process = await start(b"", code)
    assert await process.receive() is None
    assert await process.end(grace_s=10) == reason


async def test_process_that_does_not_end_is_killed():
    process = await WorkerProcess.start((sys.executable, "-c", SLEEP))
    assert await process.end() == "killed by SIGKILL"


async def test_message_to_a_dead_process_is_dropped():
    process = await start(b"")
    assert await process.receive() is None
    process.send(pipe.Shutdown())
    await process.end()
    process.send(pipe.Shutdown())


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled_start_leaves_no_socket_and_no_process(steps):
    start = asyncio.create_task(WorkerProcess.start((sys.executable, "-c", SLEEP)))
    for _ in range(steps):
        await asyncio.sleep(0)
    start.cancel()
    (started,) = await asyncio.gather(start, return_exceptions=True)
    if isinstance(started, WorkerProcess):  # it was faster
        await started.end()
    gc.collect()  # an unclosed socket is a warning, and warnings are errors
    assert not [child for child in psutil.Process().children() if SLEEP in child.cmdline()]


async def test_what_a_worker_writes_goes_where_our_lines_go(capfd):
    said = "import os; os.write(1, b'one\\n'); os.write(2, b'two\\nlast words')"
    process = await WorkerProcess.start((sys.executable, "-c", said))
    assert await process.end(grace_s=60) == "exit code 0"
    assert capfd.readouterr().err.split("\n")[:3] == ["one", "two", "last words"]

"""No process of a managed engine outlives the daemon, its guard or its unload."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import psutil
import pytest

from neuron.managed.process import GUARD

# A program that ignores SIGTERM, and a child with a session of its own that does so as well.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 1:
    child = subprocess.Popen([sys.executable, sys.argv[0], "child"], start_new_session=True)
    print(child.pid, flush=True)
time.sleep(3600)
"""
# A daemon: it starts the guard that its arguments name, and says its number.
DAEMON = """
import subprocess, sys, time
guard = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
print(guard.pid, flush=True)
time.sleep(3600)
"""


@pytest.fixture
def stubborn(tmp_path):
    program = tmp_path / "stubborn.py"
    program.write_text(STUBBORN)
    return [*GUARD, "0.2", sys.executable, str(program)]


def family(pid):
    """The processes below one, once it has a child and a grandchild."""
    while len(found := psutil.Process(pid).children(recursive=True)) < 2:
        pass
    return found


def are_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


async def started(command):
    pipe = asyncio.subprocess.PIPE
    guard = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, start_new_session=True)
    assert await guard.stdout.readline()
    return guard


@pytest.mark.parametrize("how", ["pipe", "signal"])
async def test_a_program_that_does_not_listen_is_killed_with_its_descendants(how, stubborn):
    guard = await started(stubborn)
    processes = family(guard.pid)
    if how == "pipe":
        guard.stdin.close()
    else:
        guard.terminate()
    assert await guard.wait() == 128 + signal.SIGKILL
    assert are_gone(processes)


async def test_nothing_is_left_of_a_program_that_ends_by_itself(stubborn):
    guard = await started(stubborn)
    processes = family(guard.pid)
    program = next(one for one in processes if one.ppid() == guard.pid)
    program.kill()
    assert await guard.wait() == 128 + signal.SIGKILL
    assert are_gone(processes)


def test_nothing_is_left_of_a_daemon_that_is_killed(stubborn):
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, *stubborn], stdout=subprocess.PIPE, text=True
    ) as daemon:
        guard = psutil.Process(int(daemon.stdout.readline()))
        processes = [guard, *family(guard.pid)]
        daemon.kill()
        assert are_gone(processes)


async def test_a_program_does_not_outlive_its_guard(stubborn):
    guard = await started(stubborn)
    program = next(one for one in family(guard.pid) if one.ppid() == guard.pid)
    rest = [one for one in psutil.Process(guard.pid).children(recursive=True) if one != program]
    os.kill(guard.pid, signal.SIGKILL)
    assert are_gone([program])
    for one in rest:  # a session of its own: the daemon, which has seen it, ends it
        one.kill()
    await guard.communicate()


@pytest.mark.parametrize(("word", "status"), [("exit 3", 3), ("kill -9 $$", 137)])
async def test_the_status_is_the_programs(word, status):
    guard = await asyncio.create_subprocess_exec(
        *GUARD, "1", "/bin/sh", "-c", word, stdin=asyncio.subprocess.PIPE
    )
    assert await guard.wait() == status


async def test_a_program_that_cannot_be_started_is_named():
    pipe = asyncio.subprocess.PIPE
    guard = await asyncio.create_subprocess_exec(*GUARD, "1", "/nowhere", stdin=pipe, stdout=pipe)
    said, _ = await guard.communicate()
    assert (guard.returncode, said) == (127, b"/nowhere cannot be started: No such file or directory\n")

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import psutil
import pytest

from cortex_site.processes import supervisor as module
from cortex_site.processes.supervisor import Program, StartError, Supervisor

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")
SPAWNING = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
)
WITH_CHILD = (sys.executable, "-c", f"{SPAWNING}; time.sleep(600)")


@asynccontextmanager
async def supervising(tmp_path, told=None):
    supervisor = Supervisor(
        tell=(told if told is not None else []).append, state_path=tmp_path / "state.json", log_dir=tmp_path
    )
    try:
        yield supervisor
    finally:
        await supervisor.stop()


def state(tmp_path) -> dict:
    return json.loads((tmp_path / "state.json").read_text())


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_killed_program_comes_back_and_the_reason_is_told(tmp_path):
    told: list[str] = []
    async with supervising(tmp_path, told) as supervisor:
        await supervisor.start(Program("sleeper", SLEEP))
        first = state(tmp_path)["processes"][0]["pid"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: state(tmp_path)["processes"][0]["restarts"] == 1)
        process = state(tmp_path)["processes"][0]
        assert process["pid"] != first
        assert process["reason"] == "was killed by SIGKILL"
    assert any("sleeper was killed by SIGKILL; starting it again" in line for line in told)


async def test_restarts_back_off(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", (0.01, 0.02))
    told: list[str] = []
    async with supervising(tmp_path, told) as supervisor:
        await supervisor.start(Program("crasher", (sys.executable, "-c", "raise SystemExit(3)")))
        await until(lambda: len(told) >= 3)
    assert "ended with exit code 3; starting it again in 0.01 s" in told[0]
    assert "in 0.02 s" in told[1]
    assert "in 0.02 s" in told[2]


async def test_stop_ends_programs_and_what_they_started(tmp_path):
    async with supervising(tmp_path) as supervisor:
        await supervisor.start(Program("parent", WITH_CHILD))
        parent = psutil.Process(state(tmp_path)["processes"][0]["pid"])
        await until(parent.children)
        family = [parent, *parent.children()]
    await until(lambda: not any(alive(process) for process in family))
    assert not (tmp_path / "state.json").exists()


async def test_a_program_that_ignores_sigterm_is_killed(tmp_path):
    stubborn = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    async with supervising(tmp_path) as supervisor:
        await supervisor.start(Program("stubborn", (sys.executable, "-c", stubborn), stop_s=0.2))
        process = psutil.Process(state(tmp_path)["processes"][0]["pid"])
        await until(lambda: "up" in (tmp_path / "stubborn.log").read_text())
    assert not alive(process)


async def test_a_log_that_grows_long_is_moved_aside_while_its_program_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOG_BYTES", 1000)
    monkeypatch.setattr(module, "TRIM_S", 0.01)
    writing = "import itertools, time\nfor i in itertools.count():\n print(i, flush=True); time.sleep(0.001)"
    async with supervising(tmp_path) as supervisor:
        await supervisor.start(Program("writer", (sys.executable, "-c", writing)))
        pid = state(tmp_path)["processes"][0]["pid"]
        await until((tmp_path / "writer.log.1").exists)
        moved = (tmp_path / "writer.log.1").stat().st_mtime_ns
        await until(lambda: (tmp_path / "writer.log.1").stat().st_mtime_ns != moved)
        assert state(tmp_path)["processes"][0]["pid"] == pid


async def test_a_program_that_fails_to_start_shows_its_log(tmp_path):
    async def never() -> bool:
        return False

    failing = (sys.executable, "-c", "import sys; sys.exit('no such database')")
    async with supervising(tmp_path) as supervisor:
        with pytest.raises(StartError, match=r"(?s)exit code 1 while starting.*no such database"):
            await supervisor.start(Program("failing", failing, ready=never))


async def test_a_program_that_is_killed_while_starting_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", (0.01,))
    told: list[str] = []

    async def ready() -> bool:
        process = state(tmp_path)["processes"][0]
        if process["restarts"] < 2:
            with suppress(ProcessLookupError):  # killed before, and not started again yet
                os.kill(process["pid"], signal.SIGKILL)
        return process["restarts"] == 2

    async with supervising(tmp_path, told) as supervisor:
        await supervisor.start(Program("sleeper", SLEEP, ready=ready))
    assert [line.split(";")[0] for line in told] == ["sleeper was killed by SIGKILL"] * 2


async def test_a_program_that_is_killed_all_the_time_fails_to_start(tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(module, "BACKOFF_S", (0.01,))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 100.0 * len(told)))
    suicide = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")

    async def ready() -> bool:
        return False

    async with supervising(tmp_path, told) as supervisor:
        with pytest.raises(StartError, match="sleeper was killed by SIGKILL while starting"):
            await supervisor.start(Program("sleeper", suicide, ready=ready, ready_s=1))


async def test_children_die_with_a_killed_supervisor(tmp_path):
    where = tmp_path / "state.json"
    code = f"""
import asyncio
from pathlib import Path
from cortex_site.processes.supervisor import Program, Supervisor
async def main():
    supervisor = Supervisor(tell=print, state_path=Path({str(where)!r}))
    await supervisor.start(Program("sleeper", {SLEEP!r}))
    await asyncio.sleep(600)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await until(where.exists)
    child = psutil.Process(state(tmp_path)["processes"][0]["pid"])
    process.kill()
    await process.wait()
    await until(lambda: not alive(child))

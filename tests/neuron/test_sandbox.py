"""The sandbox with stand-ins for checks that run away: real processes, real limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
import uvloop

from neuron.config import SandboxSettings
from neuron.prctl import be_nice
from neuron.sandbox.process import CallLimitError
from neuron.sandbox.sandbox import CallError, Sandbox
from neuron.sandbox.verdicts import Verdicts
from neuron.wire import ApiError
from tests.neuron.conftest import until
from tests.stubs import stand_in_calls as calls


def settings(**values: Any) -> SandboxSettings:
    return SandboxSettings(**{"processes": 1, "cpu_s": 1, "memory_mb": 256, "max_waiting": 4} | values)


@contextlib.asynccontextmanager
async def sandbox_with(**values: Any) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(settings(**values))
    try:
        yield sandbox
    finally:
        await sandbox.close()


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with sandbox_with() as made:
        yield made


class Held:
    """A call that has begun and goes on until `release`, with its process's id."""

    def __init__(self, sandbox: Sandbox, place: Path, principal: str = "holder") -> None:
        self._gate = place / "gate"
        self._started = place / "started"
        self.task = asyncio.create_task(
            sandbox.run(principal, calls.wait_for, str(self._gate), str(self._started))
        )

    async def pid(self) -> int:
        async def written() -> str:
            return self._started.read_text() if self._started.exists() else ""

        return int(await until(written))

    def release(self) -> None:
        self._gate.touch()


async def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def session_niceness(pid: int) -> int:
    group = Path(f"/proc/{pid}/autogroup")
    if not group.exists():
        pytest.skip("this kernel does not share its cores among sessions")
    return int(group.read_text().split()[-1])


async def test_its_processes_leave_the_cores_to_streams(sandbox):
    pid = await sandbox.run("", calls.pid)
    assert psutil.Process(pid).nice() > psutil.Process().nice()


async def test_its_processes_leave_the_cores_to_streams_of_other_sessions(sandbox):
    pid = await sandbox.run("", calls.pid)
    assert session_niceness(pid) == psutil.Process(pid).nice()


class BusyGroup:
    """A session's group that the kernel does not let change at once."""

    def __init__(self, refusals: int) -> None:
        self._refusals = refusals
        self.niceness = ""

    def write_text(self, niceness: str, encoding: str) -> None:
        if self._refusals:
            self._refusals -= 1
            raise BlockingIOError
        self.niceness = niceness


def test_a_group_that_cannot_be_changed_yet_is_asked_again():
    group = BusyGroup(refusals=2)
    be_nice(0, group)
    assert group.niceness == "0"


def test_without_groups_only_the_process_is_nice(tmp_path):
    be_nice(0, tmp_path / "nowhere" / "autogroup")


async def test_a_process_is_started_by_the_first_call_and_kept(sandbox):
    first = await sandbox.run("", calls.pid)
    assert await sandbox.run("", calls.pid) == first
    assert not [file.path for file in psutil.Process(first).memory_maps() if "torch" in file.path]
    await sandbox.close()
    assert await gone(first)


async def test_cpu_time_is_limited_and_the_process_replaced(sandbox):
    before = await sandbox.run("", calls.pid)
    with pytest.raises(CallLimitError, match="more than 1 s of CPU time"):
        await sandbox.run("", calls.spin)
    assert await sandbox.run("", calls.pid) != before


@pytest.mark.parametrize("greedy", [calls.allocate, calls.abort])
async def test_memory_is_limited_and_the_process_replaced(sandbox, greedy):
    before = await sandbox.run("", calls.pid)
    with pytest.raises(CallLimitError, match="more than 256 MiB of memory"):
        await sandbox.run("", greedy)
    assert await sandbox.run("", calls.pid) != before
    assert await gone(before)


async def test_limits_of_its_own_stay_below_those_of_its_surroundings():
    limited = 'ulimit -v 1000000; exec "$0" -m neuron.sandbox'
    sandbox = Sandbox(settings(memory_mb=4096), command=("sh", "-c", limited, sys.executable))
    assert await sandbox.run("", calls.pid)
    with pytest.raises(CallLimitError):
        await sandbox.run("", calls.allocate)
    await sandbox.close()


async def test_a_call_without_an_answer_in_time_is_nobodys_fault(tmp_path):
    async with sandbox_with(wall_s=0.05) as sandbox:
        held = Held(sandbox, tmp_path)
        with pytest.raises(ApiError) as caught:
            await held.task
    assert (caught.value.status, caught.value.code) == (503, "sandbox_timeout")
    assert caught.value.retry_after_s


async def test_a_process_killed_during_a_call_is_replaced_and_the_call_made_again(sandbox, tmp_path):
    held = Held(sandbox, tmp_path)
    first = await held.pid()
    os.kill(first, signal.SIGKILL)

    async def is_another() -> bool:
        return await held.pid() != first

    await until(is_another)
    held.release()
    assert await held.task == await held.pid()


async def test_a_call_whose_processes_are_killed_twice_is_a_503(sandbox):
    with pytest.raises(ApiError) as caught:
        await sandbox.run("", calls.fall)
    assert (caught.value.status, caught.value.code) == (503, "sandbox_failed")
    assert await sandbox.run("", calls.pid)


async def killed_idle(sandbox: Sandbox, count: int) -> set[int]:
    """The ids of `count` idle processes that were killed, and which the event loop knows to be gone."""
    pids = set(await asyncio.gather(*(sandbox.run("", calls.pid) for _ in range(count))))
    assert len(pids) == count
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    async def are_reaped() -> bool:
        return not any(map(psutil.pid_exists, pids))

    await until(are_reaped)
    return pids


async def test_idle_processes_that_are_killed_cost_no_call():
    async with sandbox_with(processes=3) as sandbox:
        pids = await killed_idle(sandbox, 3)
        assert await sandbox.run("", calls.pid) not in pids


async def test_what_a_function_raises_is_told_and_the_process_kept(sandbox):
    before = await sandbox.run("", calls.pid)
    with pytest.raises(CallError, match="fail: ValueError: out of luck"):
        await sandbox.run("", calls.fail)
    assert await sandbox.run("", calls.pid) == before


async def test_principals_take_turns(sandbox, tmp_path):
    log = tmp_path / "log"
    held = Held(sandbox, tmp_path, "a")
    await held.pid()
    order = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "B")]
    waiting = [asyncio.create_task(sandbox.run(who, calls.note, name, str(log))) for who, name in order]
    await asyncio.sleep(0)  # until each has queued
    held.release()
    await asyncio.gather(held.task, *waiting)
    assert log.read_text() == "1B23"


async def test_a_full_queue_refuses_with_a_time_and_drops_for_who_has_fewer(tmp_path):
    async with sandbox_with(max_waiting=2) as sandbox:
        held = Held(sandbox, tmp_path, "a")
        await held.pid()
        first, second = (asyncio.create_task(sandbox.run("a", calls.pid)) for _ in range(2))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await sandbox.run("a", calls.pid)
        other = asyncio.create_task(sandbox.run("b", calls.pid))
        with pytest.raises(ApiError) as dropped:
            await second
        held.release()
        assert await first == await other == await held.task
    for error in (refused.value, dropped.value):
        assert (error.status, error.code) == (503, "sandbox_full")
        assert error.retry_after_s


async def test_a_cancelled_call_leaves_the_queue(sandbox, tmp_path):
    log = tmp_path / "log"
    held = Held(sandbox, tmp_path)
    await held.pid()
    calls_ = [asyncio.create_task(sandbox.run("a", calls.note, name, str(log))) for name in "123"]
    await asyncio.sleep(0)
    calls_[1].cancel()
    held.release()
    await asyncio.wait([held.task, *calls_])
    assert calls_[1].cancelled()
    assert log.read_text() == "13"


async def test_a_call_cancelled_as_its_turn_comes_passes_it_on(sandbox, tmp_path):
    held = Held(sandbox, tmp_path)
    await held.pid()
    waiting = [asyncio.create_task(sandbox.run("a", calls.pid)) for _ in range(2)]
    held.task.add_done_callback(lambda _: waiting[0].cancel())  # after its turn was given, before it runs
    await asyncio.sleep(0)
    held.release()
    await asyncio.wait(waiting)
    assert waiting[0].cancelled()
    assert await waiting[1]
    assert await sandbox.run("", calls.pid)


async def test_a_cancelled_call_that_runs_is_killed(sandbox, tmp_path):
    held = Held(sandbox, tmp_path)
    pid = await held.pid()
    held.task.cancel()
    await asyncio.wait([held.task])
    assert await gone(pid)
    assert await sandbox.run("", calls.pid) != pid


async def test_closing_refuses_who_waits_and_who_comes(sandbox, tmp_path):
    held = Held(sandbox, tmp_path)
    pid = await held.pid()
    waiting = asyncio.create_task(sandbox.run("", calls.pid))
    await asyncio.sleep(0)
    await sandbox.close()
    for late in (waiting, sandbox.run("", calls.pid)):
        with pytest.raises(ApiError):
            await late
    held.release()
    assert await held.task == pid
    assert await gone(pid)


async def test_a_program_that_cannot_be_started_is_a_503():
    sandbox = Sandbox(settings(), command=("/nonexistent",))
    with pytest.raises(ApiError) as caught:
        await sandbox.run("", calls.pid)
    assert caught.value.code == "sandbox_failed"


PARENT = """
import asyncio, sys
from neuron.config import SandboxSettings
from neuron.prctl import be_nice
from neuron.sandbox.sandbox import Sandbox
from tests.stubs import stand_in_calls as calls
asyncio.run(Sandbox(SandboxSettings(cpu_s=600)).run("", calls.spin_after, sys.argv[1]))
"""


async def test_a_process_dies_with_its_parent_in_the_middle_of_a_call(tmp_path):
    started = tmp_path / "started"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, str(started))
    try:

        async def written() -> str:
            return started.read_text() if started.exists() else ""

        pid = int(await until(written))
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: gone(pid))


def test_it_works_on_uvloop():
    async def main() -> None:
        async with sandbox_with() as sandbox:
            pid = await sandbox.run("", calls.pid)
            os.kill(pid, signal.SIGKILL)
            assert await sandbox.run("", calls.pid) != pid
            pids = await killed_idle(sandbox, 1)
            assert await sandbox.run("", calls.pid) not in pids
            with pytest.raises(CallLimitError):
                await sandbox.run("", calls.abort)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# --- verdicts ---------------------------------------------------------------------------------------------


class CountedSandbox(Sandbox):
    runs = 0

    async def run(self, *args: Any, **options: Any) -> Any:
        self.runs += 1
        return await super().run(*args, **options)


async def test_verdicts_are_remembered_also_those_of_what_takes_too_much(monkeypatch):
    monkeypatch.setattr("neuron.sandbox.verdicts.MAX_VERDICTS", 2)
    sandbox = CountedSandbox(settings())
    verdicts = Verdicts(sandbox)
    for _ in range(2):
        assert await verdicts.ask("", calls.same, {"type": "object"}) == {"type": "object"}
        with pytest.raises(CallLimitError, match="256 MiB"):
            await verdicts.ask("", calls.allocate, 1)
    assert sandbox.runs == 2
    await verdicts.ask("", calls.same, 2)  # the oldest is forgotten
    await verdicts.ask("", calls.same, {"type": "object"})
    assert sandbox.runs == 4
    await sandbox.close()


async def test_verdicts_are_told_apart_by_check_values_and_options(sandbox):
    verdicts = Verdicts(sandbox)
    for value in (1, "1", True, 10**30, (1,), [1], "\ud800", {"a": 1}, {"b": 1}):
        for option in (False, True):
            found = await verdicts.ask("", calls.same, value, option=option)
            assert (found, type(found)) == (value, type(value))
    assert await verdicts.ask("", calls.nothing, 1) is None


async def test_verdicts_of_long_texts_are_forgotten_early(monkeypatch):
    monkeypatch.setattr("neuron.sandbox.verdicts.MAX_CHARS", 1000)
    sandbox = CountedSandbox(settings())
    verdicts = Verdicts(sandbox)
    for text in ("a" * 600, "b" * 600, "b" * 600, "a" * 600, "c" * 2000, "c" * 2000):
        await verdicts.ask("", calls.nothing, text)
    assert sandbox.runs == 4
    await sandbox.close()


async def test_a_failure_of_the_sandbox_is_no_verdict(sandbox):
    verdicts = Verdicts(sandbox)
    with pytest.raises(ApiError):
        await verdicts.ask("", calls.fall, 1)
    with pytest.raises(CallError):
        await verdicts.ask("", calls.fail, 1)


async def test_arguments_nested_too_deeply_are_a_limit(sandbox):
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(CallLimitError, match="nesting"):
        await Verdicts(sandbox).ask("", calls.nothing, nested)

"""Commands in the background: started, looked at, waited for, stopped, and ended with their session."""

from __future__ import annotations

import asyncio

import pytest
from acp_testing.fakes import ToolHarness
from acp_testing.process import choose
from test_e2e_turn import _content, _gone

from helexa_acp.cancellation import Cancelled
from helexa_acp.tools.background import MAX_RUNNING
from helexa_acp.tools.errors import ToolError

# A command that waits until a file exists, so that the test decides when it goes on.
STEPS = "echo one; until [ -e go ]; do sleep 0.01; done; echo two"


@pytest.fixture
async def tools(project):
    harness = ToolHarness(project)
    yield harness
    await harness.processes.kill_all()


async def start(tools, command):
    outcome = await tools.run("shell", command=command, background=True)
    return outcome.text.partition(" ")[0]


async def output(tools, id_):
    """Return the first output that is not empty."""
    async with asyncio.timeout(60):
        while (text := (await tools.run("background", action="output", id=id_)).text) == "[still running]":
            await asyncio.sleep(0.01)
    return text


async def test_output_is_told_once_and_the_end_with_its_code(tools, project):
    id_ = await start(tools, STEPS + "; exit 3")
    assert id_ == "bg1"
    assert await output(tools, id_) == "one\n[still running]"
    assert (await tools.run("background", action="output", id=id_)).text == "[still running]"
    (project / "go").touch()
    ended = await tools.run("background", action="wait", id=id_)
    assert ended.text == "two\n[ended with exit code 3]"
    assert ended.raw == {"exitCode": 3, "signal": None}


async def test_a_wait_ends_at_its_time_or_with_the_turn(tools):
    id_ = await start(tools, "sleep 300")
    assert (await tools.run("background", action="wait", id=id_, timeout_s=1)).text == "[still running]"
    tools.cancel.cancel()
    with pytest.raises(Cancelled):
        await tools.run("background", action="wait", id=id_)


async def test_a_stopped_command_ends_with_its_children(tools, project):
    id_ = await start(tools, "sleep 300 & echo $! > pid; wait")
    pid = int(await _content(project / "pid"))
    stopped = await tools.run("background", action="stop", id=id_)
    assert stopped.text.startswith("[ended by signal SIGTERM") or "exit code" in stopped.text
    await _gone(pid)
    assert (await tools.run("background", action="list")).text.startswith("bg1 [ended] sleep 300")


async def test_endless_output_is_bounded(tools, project):
    id_ = await start(tools, "yes | head -c 2000000; touch made; until [ -e go ]; do sleep 0.01; done")
    async with asyncio.timeout(60):
        while not (project / "made").exists():
            await asyncio.sleep(0.01)
    assert len((await tools.run("background", action="output", id=id_)).text) < 70_000
    (project / "go").touch()


async def test_too_many_and_unknown_commands_are_refused(tools):
    assert (await tools.run("background", action="list")).text == "[none was started]"
    with pytest.raises(ToolError, match="no background command 'bg9'; there are: none was started"):
        await tools.run("background", action="stop", id="bg9")
    for _ in range(MAX_RUNNING):
        await start(tools, "sleep 300")
    with pytest.raises(ToolError, match="stop one of them"):
        await start(tools, "sleep 300")
    await tools.run("background", action="stop", id="bg1")
    assert await start(tools, "sleep 300") == f"bg{MAX_RUNNING + 1}"


SCRIPT = """
[[turn]]
match = "serve"
[[turn.reply]]
steps = [{ call = "shell", args = { command = "echo $$ > pid; sleep 300", background = true } }]
[[turn.reply]]
steps = [{ text = "started" }]
[[turn]]
match = "look"
[[turn.reply]]
steps = [{ call = "background", args = { action = "list" } }]
[[turn.reply]]
steps = [{ text = "looked" }]
"""


@pytest.mark.parametrize("how", ["close", "exit"])
async def test_a_command_outlives_its_turn_but_not_its_session(script, start, project, how):
    script(SCRIPT)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "serve")
        pid = int(await _content(project / "pid"))
        await agent.prompt(session, "look")
        assert "bg1 [running] echo $$" in repr(agent.updates)
        assert len(agent.calls("session/request_permission")) == 1
        if how == "close":
            await agent.request("session/close", sessionId=session)
            await _gone(pid)
    await _gone(pid)


async def test_a_command_in_the_background_needs_the_same_permission(script, start, project):
    script(SCRIPT)
    async with start() as agent:
        agent.answers["session/request_permission"] = choose("reject_once")
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "serve")
        assert not (project / "pid").exists()

"""Hooks and MCP servers of the configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from acp_testing.process import fold, prompt, without_user
from test_e2e_turn import _content

from helexa_acp.config import ConfigError, parse_config
from helexa_acp.extensions import Hook

ENDPOINT = {"name": "e", "base_url": "http://e/v1"}
SERVER = Path(__file__).parent / "raw_mcp_server.py"
WRITE = """
[[turn]]
match = "go"
[[turn.reply]]
steps = [{ call = "write", args = { path = "a", content = "x" } }]
[[turn.reply]]
steps = [{ text = "done" }]
[[turn]]
match = "objects"
[[turn.reply]]
steps = [{ text = "I will go on." }]
"""


def parse(**tables):
    return parse_config({"endpoints": [ENDPOINT], **tables}, source="config.toml", env={})


def test_servers_and_hooks_are_read():
    config = parse(
        mcp_servers=[
            {"name": "a", "command": "run", "args": ["x"], "env": {"K": "v"}},
            {"name": "b", "url": "http://b/mcp", "headers": {"Authorization": "Bearer x"}},
        ],
        hooks=[{"event": "before_tool", "command": "check", "tools": ["write", "mcp__*"], "timeout_s": 2}],
    )
    assert config.extensions.mcp_servers == (
        {"name": "a", "command": "run", "args": ["x"], "env": [{"name": "K", "value": "v"}]},
        {
            "type": "http",
            "name": "b",
            "url": "http://b/mcp",
            "headers": [{"name": "Authorization", "value": "Bearer x"}],
        },
    )
    assert config.extensions.hooks == (Hook("before_tool", "check", ("write", "mcp__*"), 2.0),)
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (3, "must be a table"),
        ({"command": "x"}, "name: is missing"),
        ({"name": "a"}, "needs either command or url"),
        ({"name": "a", "command": "x", "url": "http://x"}, "needs either command or url"),
        ({"name": "a", "url": "file:///x"}, "url: must be an http"),
        ({"name": "a", "command": "x", "arg": []}, "unknown key 'arg'"),
        ({"name": "a", "command": "x", "env": {"K": 3}}, "env: must be a table of strings"),
        ({"name": "", "command": "x"}, "name: must not be empty"),
    ],
)
def test_a_bad_server_is_skipped_with_a_warning(server, said):
    config = parse(mcp_servers=[server, {"name": "good", "command": "x"}, {"name": "good", "command": "y"}])
    assert [s["command"] for s in config.extensions.mcp_servers] == ["x"]
    assert said in config.warnings[0]
    assert "another server has it already" in config.warnings[1]


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ({"command": "x"}, "event: is missing"),
        ({"event": "before_tool"}, "command: is missing"),
        ({"event": "before", "command": "x"}, "'before' is none of"),
        ({"event": "stop", "command": "x", "timeout": 3}, "unknown key 'timeout'"),
        ({"event": "stop", "command": "x", "timeout_s": 0}, "timeout_s: must be a positive number"),
    ],
)
def test_a_bad_hook_ends_the_program_as_what_it_guards_must_not_run(hook, said):
    with pytest.raises(ConfigError, match=said):
        parse(hooks=[hook])
    with pytest.raises(ConfigError, match=r"write each as a \[\[hooks\]\] table"):
        parse(hooks=hook)


@pytest.mark.parametrize(
    ("hook", "event", "tool", "concerned"),
    [
        (Hook("before_tool", "x"), "before_tool", "write", True),
        (Hook("before_tool", "x"), "after_tool", "write", False),
        (Hook("before_tool", "x", ("mcp__*", "edit")), "before_tool", "mcp__a__b", True),
        (Hook("before_tool", "x", ("mcp__*", "edit")), "before_tool", "write", False),
        (Hook("stop", "x"), "stop", "", True),
    ],
)
def test_a_hook_concerns_an_event_and_tools(hook, event, tool, concerned):
    assert hook.concerns(event, tool) is concerned


def hook(event, command, **more):
    lines = [
        f"{key} = {json.dumps(value)}" for key, value in {"event": event, "command": command, **more}.items()
    ]
    return "[[hooks]]\n" + "\n".join(lines) + "\n"


@pytest.fixture
def talk(script, start, project):
    async def run(*hooks, text="go", during=None):
        script(WRITE, "\n".join(hooks))
        async with start() as agent:
            await agent.initialize()
            session = await agent.new_session(project)
            turn = agent.begin("session/prompt", prompt(session, text))
            if during is not None:
                await during(agent, session)
            stop = (await agent.result(turn))["stopReason"]
            live = fold(agent.updates)
            agent.messages.clear()
            await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
            assert without_user(fold(agent.updates)) == live
            return stop, json.dumps(live), agent

    return run


async def test_a_hook_learns_of_the_call_and_lets_it_run(talk, project):
    await talk(
        hook("before_tool", "cat > before"), hook("after_tool", "cat > after"), hook("stop", "cat > stop")
    )
    before = json.loads((project / "before").read_text())
    assert before["event"] == "before_tool"
    assert before["cwd"] == str(project)
    assert (before["tool"], before["arguments"]) == ("write", {"path": "a", "content": "x"})
    after = json.loads((project / "after").read_text())
    assert (after["is_error"], "is written" in after["result"]) == (False, True)
    assert json.loads((project / "stop").read_text())["text"] == "done"
    assert (project / "a").read_text() == "x"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo no writes today; exit 2", "no writes today"),
        ("exit 1", "ended with exit code 1"),
        ("kill -9 $$", "ended with SIGKILL"),
        ("sleep 300", "did not end within 0.2 s"),
    ],
)
async def test_a_hook_that_objects_or_fails_refuses_the_call_before_it_is_asked_about(
    talk, project, command, said
):
    stop, shown, _ = await talk(hook("before_tool", command, timeout_s=0.2, tools=["wri*"]))
    assert stop == "end_turn"
    assert f"a hook of the user's refuses this call: {said}" in shown or said in shown
    assert not (project / "a").exists()


async def test_the_words_of_a_hook_after_a_call_reach_the_model(talk, env):
    await talk(hook("after_tool", "echo line 1 is too long; exit 1"))
    kept = next((Path(env["HOME"]) / ".local/share/helexa-acp/sessions").glob("*.jsonl")).read_text()
    assert "A hook of the user's says: line 1 is too long" in kept


async def test_a_hook_may_object_to_the_end_of_a_turn_but_not_for_ever(talk):
    stop, shown, _ = await talk(hook("stop", "echo the tests fail; exit 1"))
    assert stop == "end_turn"
    assert shown.count("objects to the end of the turn") == 3
    assert shown.count("I will go on.") == 3


async def test_a_cancelled_turn_does_not_wait_for_a_hook(talk, project):
    async def cancel(agent, session):
        await _content(project / "began")
        agent.notify("session/cancel", sessionId=session)

    stop, _, _ = await talk(hook("before_tool", "echo x > began; sleep 300", timeout_s=600), during=cancel)
    assert stop == "cancelled"
    assert not (project / "a").exists()


async def test_servers_of_the_configuration_join_the_clients(script, start, project, env):
    command = json.dumps(sys.executable)
    table = f"[[mcp_servers]]\nname = {{}}\ncommand = {command}\nargs = [{json.dumps(str(SERVER))}]\n"
    script(WRITE, table.format('"own"') + table.format('"shared"'))
    env.pop("PYTHONWARNINGS")
    shared = {"name": "shared", "command": "/no/such/program", "args": [], "env": []}
    async with start() as agent:
        await agent.initialize()
        await agent.request("session/new", cwd=str(project), mcpServers=[shared])
        await agent.until(lambda: "own:review" in json.dumps(agent.updates))
        assert "shared:review" not in json.dumps(agent.updates)

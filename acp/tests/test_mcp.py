"""MCP servers: what they offer, what they may ask, and that none delays or outlives its session."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from acp_testing.process import FULL_CLIENT, choose, fold, prompt, without_user
from test_e2e_turn import _content, _gone

from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.mcp.prompts import McpPrompt
from helexa_acp.tools.mcp.servers import McpServers

SERVER = Path(__file__).parent / "raw_mcp_server.py"
ASKING = {**FULL_CLIENT, "elicitation": {"form": {}}}


def server(*args, name="raw"):
    return {"name": name, "command": sys.executable, "args": [str(SERVER), *map(str, args)], "env": []}


def calling(tool, args="{}"):
    return (
        f'[[turn]]\nmatch = "go"\n[[turn.reply]]\nsteps = [{{ call = "{tool}", args = {args} }}]\n'
        '[[turn.reply]]\nsteps = [{ text = "done" }]\n'
    )


@pytest.fixture
def opened(script, start, project, env):
    """Start an agent, and return a function that opens a session with servers."""
    env.pop("PYTHONWARNINGS")

    async def open_(agent, *servers, capabilities=None):
        await agent.initialize(capabilities)
        params = {"cwd": str(project), "mcpServers": list(servers)}
        return (await agent.request("session/new", **params))["sessionId"]

    return open_


def result_of(agent):
    """Return the text of the last finished card."""
    card = [u for u in agent.updates if u.get("status") in {"completed", "failed"}][-1]
    return "\n".join(c["content"].get("text", "") for c in card.get("content", []))


# What servers offer


async def test_a_resource_link_keeps_its_name_and_address(script, start, opened, project):
    script(calling("mcp__raw__link"))
    async with start() as agent:
        session = await opened(agent, server())
        await agent.prompt(session, "go")
        card = next(u for u in agent.updates if u.get("status") == "completed")
        link = {"type": "resource_link", "uri": "test://report", "name": "report", "mimeType": "text/plain"}
        assert [item["content"] for item in card["content"]] == [{"type": "text", "text": "see"}, link]
        kept = next(
            (Path(agent.env["HOME"]) / ".local/share/helexa-acp/sessions").glob("*.jsonl")
        ).read_text()
        assert "[report](test://report)" in kept
        live = fold(agent.updates)
        agent.messages.clear()
        await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        assert without_user(fold(agent.updates)) == live


async def test_progress_is_shown_on_the_card(script, start, opened):
    script(calling("mcp__raw__slow"))
    async with start() as agent:
        session = await opened(agent, server())
        await agent.prompt(session, "go")
        titles = [
            u["title"] for u in agent.updates if u["sessionUpdate"] == "tool_call_update" and "title" in u
        ]
        assert titles == ["raw: slow", "raw: slow: 25% working", "raw: slow: 50% working", "raw: slow"]


@pytest.mark.parametrize(
    ("args", "title", "said"),
    [
        ('{ server = "raw" }', "raw: list the resources", "test://report  report: of the day"),
        ('{ server = "raw", uri = "test://report" }', "raw: read test://report", "all is well"),
    ],
)
async def test_resources_are_listed_and_read(script, start, opened, args, title, said):
    script(calling("mcp_resource", args))
    async with start() as agent:
        session = await opened(agent, server())
        await agent.prompt(session, "go")
        assert said in result_of(agent)
        (asked,) = agent.calls("session/request_permission")
        assert asked["params"]["toolCall"]["title"] == title


async def test_prompts_are_slash_commands(script, start, opened):
    script(calling("list"))
    async with start() as agent:
        session = await opened(agent, server())
        await agent.until(lambda: "raw:review" in json.dumps(agent.updates))
        listed = [
            c for u in agent.updates for c in u.get("availableCommands", []) if c["name"] == "raw:review"
        ]
        assert listed[0] == {
            "name": "raw:review",
            "description": "Review a file",
            "input": {"hint": "file [focus]"},
        }
        await agent.prompt(session, "/raw:review a.py focus=speed")
        assert "Review {'file': 'a.py', 'focus': 'speed'}" in agent.text()


async def test_a_prompt_of_a_server_that_still_connects_is_waited_for(script, start, opened):
    script(calling("list"))
    async with start() as agent:
        session = await opened(agent, server())
        await agent.prompt(session, "/raw:review a.py")
        assert "Review {'file': 'a.py'}" in agent.text()


class Named:
    def __init__(self, name, required=False):
        self.name, self.required = name, required
        self.title = self.description = None
        self.arguments = []


@pytest.mark.parametrize(
    ("arguments", "words", "values"),
    [
        ([], "", {}),
        ([Named("a")], "one two", {"a": "one two"}),
        ([Named("a")], "a=one two", {"a": "one two"}),
        ([Named("a"), Named("b")], "'one two' three", {"a": "one two", "b": "three"}),
        ([Named("a"), Named("b")], "b=1 2", {"b": "1", "a": "2"}),
        ([Named("a"), Named("b")], "it's", {"a": "it's"}),
        ([], "x", "takes no arguments"),
        ([Named("a"), Named("b")], "1 2 3", "takes"),
        ([Named("a", True), Named("b", True)], "b=1", "needs a"),
    ],
)
def test_the_words_of_a_prompt_become_arguments(arguments, words, values):
    described = Named("p")
    described.arguments = arguments
    offered = McpPrompt(None, "s", described)
    if isinstance(values, dict):
        assert offered._values(words) == values
    else:
        with pytest.raises(ToolError, match=values):
            offered._values(words)


def start_http_server(path, port):
    child = subprocess.Popen(
        [sys.executable, str(path), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    next(line for line in child.stderr if "running on" in line.lower())
    return child


async def test_mcp_servers_work_over_stdio_and_http(script, start, project, dead_port, env):
    script(
        "[[turn]]\n[[turn.reply]]\nsteps = [{ call = 'mcp__one__add', args = { a = 2, b = 3 } }]\n"
        "[[turn.reply]]\nsteps = [{ call = 'mcp__two__add', args = { a = 20, b = 30 } }]\n"
        "[[turn.reply]]\nsteps = [{ call = 'mcp__one__fail' }]\n[[turn.reply]]\nsteps = [{ text = 'ok' }]\n"
    )
    server = SERVER.with_name("mcp_server.py")
    child = start_http_server(server, dead_port)
    try:
        servers = [
            {"name": "one", "command": sys.executable, "args": [str(server)], "env": []},
            {"type": "http", "name": "two", "url": f"http://127.0.0.1:{dead_port}/mcp", "headers": []},
        ]
        env.pop("PYTHONWARNINGS")
        async with start() as agent:
            await agent.initialize()
            session = (await agent.request("session/new", cwd=str(project), mcpServers=servers))["sessionId"]
            assert await agent.prompt(session, "go") == "end_turn"
            shown = json.dumps(agent.updates)
            assert len(agent.calls("session/request_permission")) == 3
            assert '"text": "5"' in shown, shown
            assert '"text": "50"' in shown
            assert [u["status"] for u in agent.updates if "status" in u].count("failed") == 1
    finally:
        child.kill()
        child.communicate()


# What servers may ask


async def test_a_server_learns_the_roots(script, start, opened, project):
    script(calling("mcp__raw__roots"))
    async with start() as agent:
        session = await opened(agent, server())
        await agent.prompt(session, "go")
        assert json.loads(result_of(agent)) == {"roots": [{"uri": project.as_uri(), "name": "project"}]}


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (
            {"action": "accept", "content": {"colour": "red"}},
            {"action": "accept", "content": {"colour": "red"}},
        ),
        ({"action": "decline"}, {"action": "decline"}),
        ({"action": "nonsense"}, {"action": "cancel"}),
        (ValueError("no form"), {"action": "cancel"}),
    ],
)
async def test_a_server_may_ask_the_user(script, start, opened, answer, got):
    script(calling("mcp__raw__ask"))
    async with start() as agent:
        agent.answers["elicitation/create"] = lambda _: answer
        session = await opened(agent, server(), capabilities=ASKING)
        await agent.prompt(session, "go")
        assert json.loads(result_of(agent)) == got
        (asked,) = agent.calls("elicitation/create")
        assert asked["params"]["message"] == "raw: Which colour?"


async def test_a_client_without_forms_is_not_asked(script, start, opened):
    script(calling("mcp__raw__ask"))
    async with start() as agent:
        session = await opened(agent, server())
        await agent.prompt(session, "go")
        assert not agent.calls("elicitation/create")
        assert "code" in json.loads(result_of(agent))


async def test_a_server_may_ask_the_model_if_the_user_permits_it(script, start, opened, project):
    script(calling("mcp__raw__sample"))
    async with start() as agent:
        session = await opened(agent, server())
        await agent.prompt(session, "go")
        titles = [m["params"]["toolCall"]["title"] for m in agent.calls("session/request_permission")]
        assert titles == ["raw: sample", "raw asks the model"]
        got = json.loads(result_of(agent))
        assert got["content"] == {"type": "text", "text": "You said: What is the answer?"}
        assert got["model"] == "script:m"
        live = fold(agent.updates)
        agent.messages.clear()
        await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        assert {key for key, _ in without_user(fold(agent.updates))} == {key for key, _ in live}


async def test_a_refused_question_to_the_model_reaches_the_server(script, start, opened):
    script(calling("mcp__raw__sample"))
    async with start() as agent:
        choices = iter(["allow_once", "reject_once"])
        agent.answers["session/request_permission"] = lambda p: choose(next(choices))(p)
        session = await opened(agent, server())
        assert await agent.prompt(session, "go") == "end_turn"
        assert "rejected" in json.loads(result_of(agent))["message"]


# How servers begin and end


class Deaf:
    """A host to which nothing is said."""

    can_fill_forms = can_open_urls = False

    def notice(self, *_):
        raise AssertionError


async def test_all_prompts_share_one_wait_and_closing_does_not_wait(project, tmp_path):
    servers = McpServers(str(project), patience_s=1)
    servers.start([server("hang", tmp_path / "pid")], Deaf())
    pid = int(await _content(tmp_path / "pid"))
    await servers.settle()
    assert servers.patience_s <= 0
    with pytest.raises(StopIteration):  # it returns without waiting for anything
        servers.settle().send(None)
    await servers.aclose()
    await _gone(pid)


@pytest.mark.parametrize("how", ["close", "exit"])
async def test_a_stubborn_server_and_its_children_end_with_the_session(script, start, opened, tmp_path, how):
    script(calling("list"))
    async with start() as agent:
        session = await opened(agent, server("stubborn", tmp_path / "pids"))
        await agent.prompt(session, "go")
        pids = [int(pid) for pid in (await _content(tmp_path / "pids")).split()]
        if how == "close":
            await agent.request("session/close", sessionId=session)
            for pid in pids:
                await _gone(pid)
    for pid in pids:
        await _gone(pid)


async def test_the_words_of_a_server_go_to_the_log_only(script, start, opened, env, tmp_path):
    script(calling("list"))
    env["HELEXA_ACP_LOG_FILE"] = str(tmp_path / "log")
    async with start() as agent:
        await agent.prompt(await opened(agent, server()), "go")
    assert b"words of the child" not in agent.stderr
    assert "raw: words of the child" in (tmp_path / "log").read_text()
    del env["HELEXA_ACP_LOG_FILE"]
    async with start() as agent:
        await agent.prompt(await opened(agent, server()), "go")
    assert b"words of the child" not in agent.stderr


async def test_the_last_words_of_a_server_explain_its_failure(script, start, opened):
    script(calling("list"))
    async with start() as agent:
        session = await opened(agent, server("die"), capabilities=FULL_CLIENT)
        await agent.result(agent.begin("session/prompt", prompt(session, "go")))
        (notice,) = [u for u in agent.updates if u["sessionUpdate"] == "notice"]
        assert notice["title"] == "MCP server raw is not available"
        assert "its last words: there is no key" in notice["description"]

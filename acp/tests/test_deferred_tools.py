"""Tools of MCP servers whose schemas are told on demand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from acp_testing.process import choose

from helexa_acp.agent.deferred_tools import MAX_OFFERED_CHARS, NAME, offered, unwrapped
from helexa_acp.agent.reply import PendingCall
from helexa_acp.tools.builtin import builtin_tools
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.mcp.call import McpTool
from helexa_acp.tools.tool import Outcome

MANY_SERVER = """
import sys
from mcp.server import MCPServer
server = MCPServer("many")
for number in range(80):
    def tell(word: str, number: int = number) -> str:
        return f"{number} {word}"
    server.tool(name=f"tell{number}", description="Tells a word. " + "It does so at length. " * 10)(tell)
server.run("stdio")
"""


def tools_of_servers(num, size=1000):
    tool = SimpleNamespace(
        input_schema={"properties": {"a": {"type": "string"}}}, description="D. " * (size // 3)
    )
    named = [SimpleNamespace(**vars(tool), name=f"t{number}") for number in range(num)]
    return {found.spec.name: found for found in (McpTool(None, "s", each) for each in named)}


def pending(**args):
    return PendingCall("card", "id", NAME, json.dumps(args))


def test_few_tools_of_servers_are_offered_as_they_are():
    tools = {**builtin_tools(), **tools_of_servers(3)}
    assert [spec.name for spec in offered(tools)] == list(tools)


def test_many_are_offered_by_name_in_one_tool_after_the_built_in_ones():
    tools = {**tools_of_servers(50), **builtin_tools()}
    specs = offered(tools)
    assert [spec.name for spec in specs] == [*builtin_tools(), NAME]
    lines = specs[-1].description.splitlines()[1:]
    assert [line.partition(":")[0] for line in lines] == [f"mcp__s__t{number}" for number in range(50)]
    assert len(specs[-1].description) < MAX_OFFERED_CHARS < 50_000
    assert offered(tools) == specs  # the start of a request never changes


def test_the_schema_is_told_on_demand_and_a_call_goes_to_the_tool():
    tools = tools_of_servers(2)
    told = unwrapped(pending(name="mcp__s__t1"), tools)
    assert isinstance(told, Outcome)
    assert json.dumps(tools["mcp__s__t1"].spec.parameters) in told.text
    call = unwrapped(pending(name="mcp__s__t1", arguments={"a": "b"}), tools)
    assert (call.name, call.arguments, call.id, call.card_id) == ("mcp__s__t1", '{"a": "b"}', "id", "card")


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"name": 5},
        {"name": "none"},
        {"name": "shell", "arguments": {"command": "x"}},
        {"name": NAME},
        {"name": "mcp__s__t1", "arguments": "text"},
        {"name": "mcp__s__t1", "args": {}},
    ],
)
def test_what_is_no_call_of_a_deferred_tool_is_refused(args):
    with pytest.raises(ToolError):
        unwrapped(pending(**args), {**builtin_tools(), **tools_of_servers(2)})


async def test_hooks_permissions_and_cards_see_the_tool_that_is_meant(script, start, project, tmp_path, env):
    env.pop("PYTHONWARNINGS")
    server = tmp_path / "many.py"
    server.write_text(MANY_SERVER)
    name = "mcp__many__tell7"
    script(
        "[[turn]]\n"
        f'[[turn.reply]]\nsteps = [{{ call = "{NAME}", args = {{ name = "{name}" }} }}]\n'
        f'[[turn.reply]]\nsteps = [{{ call = "{NAME}", args = {{ name = "{name}", arguments = {{ word = "hi" }} }} }}]\n'
        '[[turn.reply]]\nsteps = [{ text = "Done." }]\n',
        f'[[hooks]]\nevent = "before_tool"\ntools = ["{name}"]\ncommand = "cat > {tmp_path}/seen"\n',
    )
    async with start() as agent:
        agent.answers["session/request_permission"] = choose("allow_always")
        await agent.initialize()
        many = {"name": "many", "command": sys.executable, "args": [str(server)], "env": []}
        opened = await agent.request("session/new", cwd=str(project), mcpServers=[many])
        assert await agent.prompt(opened["sessionId"], "go") == "end_turn"
        (asked,) = agent.calls("session/request_permission")
        assert asked["params"]["toolCall"]["title"] == "many: tell7"
        assert asked["params"]["toolCall"]["rawInput"] == {"word": "hi"}
        told, card = [u for u in agent.updates if u.get("status") in {"completed", "failed"}]
        assert "Schema of its arguments" in told["content"][0]["content"]["text"]
        assert card["content"][0]["content"]["text"] == "7 hi"
    seen = json.loads(Path(tmp_path / "seen").read_text())
    assert (seen["tool"], seen["arguments"]) == (name, {"word": "hi"})

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest
from acp_testing.clients import agent_command
from acp_testing.process import AgentProcess
from acp_testing.strict_server import StrictServer

WIRES = {"chat": "openai-chat", "responses": "openai-responses", "anthropic": "anthropic-messages"}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


@pytest.fixture
def configure(env):
    def write(url, extra=""):
        (Path(env["HOME"]) / ".config" / "helexa-acp" / "config.toml").write_text(
            "".join(
                f'[[endpoints]]\nname = "{name}"\nbase_url = "{url}"\nwire_api = "{wire}"\ndefault_model = "m"\n'
                for name, wire in WIRES.items()
            )
            + extra
        )
        return env

    return write


@pytest.mark.parametrize("order", list(itertools.permutations(WIRES)), ids="-".join)
async def test_a_session_may_switch_between_wires(configure, project, dead_port, order):
    async with StrictServer(dead_port) as server, AgentProcess(configure(server.url)) as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        for name in (*order, order[0]):
            await agent.request(
                "session/set_config_option", sessionId=session, configId="model", value=f"{name}:m"
            )
            agent.messages.clear()
            image = {"type": "image", "mimeType": "image/png", "data": PIXEL}
            params = {"sessionId": session, "prompt": [{"type": "text", "text": "look"}, image]}
            assert await agent.request("session/prompt", **params) == {"stopReason": "end_turn"}
            assert agent.text() == f"{name} says hi"
        assert server.problems == []
        for path, body in server.asked[-2:]:
            assert json.dumps(body).count(PIXEL) == 4, path


@pytest.mark.parametrize("wire", WIRES)
async def test_the_projects_instructions_reach_the_server(configure, project, dead_port, wire):
    (project / "AGENTS.md").write_text("Use tabs, say the elders.")
    async with StrictServer(dead_port) as server, AgentProcess(configure(server.url)) as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.request(
            "session/set_config_option", sessionId=session, configId="model", value=f"{wire}:m"
        )
        await agent.prompt(session, "x")
        (_, body), *_ = server.asked
    said = {
        "chat": lambda: body["messages"][0]["content"],
        "responses": lambda: body["instructions"],
        "anthropic": lambda: body["system"][0]["text"],
    }[wire]()
    assert "Use tabs, say the elders." in said
    assert str(project) in said


async def test_a_quirk_is_learned_over_the_wire_and_kept_across_restarts(configure, project, dead_port):
    async with StrictServer(dead_port) as server:
        env = configure(server.url)
        server.quirk = "stream_options"
        for refused in (1, 0):
            server.asked.clear()
            async with AgentProcess(env) as agent:
                await agent.initialize()
                await agent.prompt(await agent.new_session(project), "x")
                assert agent.text() == "chat says hi"
            assert sum("stream_options" in body for _, body in server.asked) == refused


async def test_session_new_does_not_wait_for_a_dead_host(configure, project, dead_port):
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): no connection to it succeeds.
    dead = '[[endpoints]]\nname = "dead"\nbase_url = "http://192.0.2.1/v1"\ndefault_model = "x"\n'
    async with StrictServer(dead_port) as server, AgentProcess(configure(server.url, dead)) as agent:
        await agent.initialize()
        result = await agent.request("session/new", cwd=str(project), mcpServers=[])
        groups = [group["group"] for group in result["configOptions"][0]["options"]]
        assert groups == ["chat", "responses", "anthropic", "dead"]
        assert await agent.prompt(result["sessionId"], "x") == "end_turn"


async def test_cold_models_and_windows_show_in_the_picker(configure, project, dead_port):
    async with StrictServer(dead_port) as server, AgentProcess(configure(server.url)) as agent:
        await agent.initialize()
        await agent.new_session(project)
        await agent.until(lambda: "(cold)" in json.dumps(agent.messages))  # in the answer, or in an update
        assert "50,000 tokens" in json.dumps(agent.messages)


async def test_keys_reach_no_log_and_no_client(configure, project, dead_port):
    async with StrictServer(dead_port) as server:
        env = {**configure(server.url), "HELEXA_ACP_LOG_LEVEL": "debug"}
        config = Path(env["HOME"]) / ".config" / "helexa-acp" / "config.toml"
        config.write_text(config.read_text().replace('"m"\n', '"m"\napi_key = "sk-very-secret"\n'))
        async with AgentProcess(env) as agent:
            await agent.initialize()
            session = await agent.new_session(project)
            await agent.prompt(session, "x")
        assert b"sk-very-secret" not in agent.stderr
        assert "sk-very-secret" not in json.dumps(agent.messages)
        kept = [p.read_bytes() for p in Path(env["HOME"]).rglob("*") if p.is_file() and p != config]
        assert not any(b"sk-very-secret" in data for data in kept)


async def test_doctor_reports_findings_and_quirks(configure, dead_port):
    dead = '[[endpoints]]\nname = "dead"\nbase_url = "http://127.0.0.1:1/v1"\ndefault_model = "x"\n'
    async with StrictServer(dead_port) as server:
        env = configure(server.url, dead)
        server.quirk = "stream_options"
        doctor = await asyncio.create_subprocess_exec(
            *agent_command(),
            "doctor",
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, _ = await doctor.communicate()
    rows = {line.split()[0]: line.split() for line in out.decode().splitlines() if line}
    assert doctor.returncode == 1  # one endpoint is dead
    assert rows["chat"][1:4] == ["yes", "none", "1"]
    assert rows["chat"][-1] == "50,000"
    assert rows["dead"][1] == "no"
    assert "chat: learned: stream_options = False" in out.decode()

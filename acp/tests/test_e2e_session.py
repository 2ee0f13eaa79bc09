from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
from pathlib import Path

import pytest
from acp_testing.process import FULL_CLIENT, AgentProcess, RpcFailureError, fold, prompt, without_user

ECHO = "[[turn]]\nmatch = 'nothing matches this'\n"

TWO_ENDPOINTS = """
fallback = ["other:n"]

[[endpoints]]
name = "other"
wire_api = "scripted"
script = {script}
default_model = "n"
"""


async def test_initialize_answers_version_1_whatever_is_asked(script, start):
    script(ECHO)
    async with start() as agent:
        for version in (1, 2, 0, 99):
            result = await agent.request("initialize", protocolVersion=version)
            assert result["protocolVersion"] == 1
        assert result["agentInfo"]["name"] == "helexa-acp"
        assert result["authMethods"][0]["id"] == "config"


async def test_ids_are_echoed_and_unknown_methods_refused(script, start, project):
    script(ECHO)
    async with start() as agent:
        for id_ in ("text", -1, 2**53):
            with pytest.raises(RpcFailureError) as early:
                await agent.result(agent.begin("session/new", {"cwd": "/", "mcpServers": []}, id_=id_))
            assert early.value.error["code"] == -32600
        agent.send({"id": None, "method": "initialize", "params": {"protocolVersion": 1}})
        await agent.until(lambda: [m for m in agent.messages if "id" in m and m["id"] is None])
        with pytest.raises(RpcFailureError) as unknown:
            await agent.request("session/no_such_method")
        assert unknown.value.error["code"] == -32601
        agent.notify("_vendor/whatever", x=1)
        agent.notify("session/cancel", sessionId="none")
        assert await agent.new_session(project)


async def test_updates_follow_the_answer_of_session_new(script, start, project):
    script(ECHO)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.until(lambda: "available_commands_update" in agent.kinds())
        answered = next(
            i for i, m in enumerate(agent.messages) if m.get("result", {}).get("sessionId") == session
        )
        assert all("method" not in m for m in agent.messages[:answered])


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session/new", {"cwd": "relative", "mcpServers": []}),
        ("session/new", {"mcpServers": []}),
        ("session/new", {"cwd": 3}),
        ("session/new", {"cwd": "/x\0y", "mcpServers": []}),
        ("session/new", {"cwd": "/", "mcpServers": "x"}),
        ("session/new", {"cwd": "/", "mcpServers": [{"name": "x"}]}),
        ("session/new", []),
        ("session/list", {"cursor": "nonsense"}),
        ("session/list", {"cwd": 7}),
        ("authenticate", {"methodId": "magic"}),
        ("session/set_mode", {"sessionId": "SESSION", "modeId": "godmode"}),
        ("session/set_config_option", {"sessionId": "SESSION", "configId": "model", "value": 3}),
        ("session/set_config_option", {"sessionId": "SESSION", "configId": "model", "value": "script:nope"}),
        ("session/set_config_option", {"sessionId": "SESSION", "configId": "colour", "value": "red"}),
        ("session/prompt", {"sessionId": "SESSION"}),
        ("session/prompt", {"sessionId": "SESSION", "prompt": "text"}),
        ("session/prompt", {"sessionId": "SESSION", "prompt": [3]}),
        ("session/prompt", {"sessionId": "SESSION", "prompt": [{"type": "hologram"}]}),
        (
            "session/prompt",
            {"sessionId": "SESSION", "prompt": [{"type": "audio", "data": "", "mimeType": "audio/wav"}]},
        ),
        (
            "session/prompt",
            {"sessionId": "SESSION", "prompt": [{"type": "image", "data": "%%", "mimeType": "image/png"}]},
        ),
    ],
)
async def test_invalid_params_are_refused(script, start, project, method, params):
    script(ECHO)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "so that models are listed")
        if isinstance(params, dict) and params.get("sessionId"):
            params = {**params, "sessionId": session}
        with pytest.raises(RpcFailureError) as error:
            await agent.result(agent.begin(method, params or []))
        assert error.value.error["code"] == -32602 or params == []


@pytest.mark.parametrize(
    "method", ["session/prompt", "session/load", "session/resume", "session/close", "session/set_mode"]
)
async def test_unknown_sessions_are_refused(script, start, method):
    script(ECHO)
    async with start() as agent:
        await agent.initialize()
        with pytest.raises(RpcFailureError) as error:
            await agent.request(
                method, sessionId="../../etc/passwd", cwd="/", mcpServers=[], prompt=[], modeId="plan"
            )
        assert error.value.error["code"] == -32002


async def test_sessions_are_listed_closed_and_deleted(script, start, project, tmp_path):
    script(ECHO)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "A first question\nwith more lines")
        listed = (await agent.request("session/list", cwd=str(project)))["sessions"]
        assert [(s["sessionId"], s["title"]) for s in listed] == [
            (session, "A first question with more lines")
        ]
        assert (await agent.request("session/list", cwd=str(tmp_path)))["sessions"] == []
        await agent.request("session/close", sessionId=session)
        with pytest.raises(RpcFailureError):
            await agent.prompt(session, "x")
        await agent.request("session/delete", sessionId=session)
        await agent.request("session/delete", sessionId=session)
        assert (await agent.request("session/list"))["sessions"] == []


async def test_modes_and_options_agree(script, start, project):
    script("models = [{ id = 'm', efforts = ['low', 'high'] }, { id = 'small' }]\n" + ECHO)
    async with start() as agent:
        await agent.initialize()
        result = await agent.request("session/new", cwd=str(project), mcpServers=[])
        session = result["sessionId"]
        await agent.until(lambda: "config_option_update" in agent.kinds() or "effort" in json.dumps(result))

        async def choose(id_, value):
            answer = await agent.request(
                "session/set_config_option", sessionId=session, configId=id_, value=value
            )
            return {o["id"]: o["currentValue"] for o in answer["configOptions"]}

        assert await choose("mode", "plan") == {"model": "script:m", "mode": "plan", "effort": "default"}
        await agent.until(lambda: [u for u in agent.updates if u.get("currentModeId") == "plan"])
        assert (await choose("effort", "high"))["effort"] == "high"
        assert await choose("model", "script:small") == {"model": "script:small", "mode": "plan"}
        agent.messages.clear()
        await agent.request("session/set_mode", sessionId=session, modeId="default")
        await agent.until(lambda: "config_option_update" in agent.kinds())
        await agent.request("session/set_model", sessionId=session, modelId="script:m")
        again = await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        assert again["modes"]["currentModeId"] == "default"
        assert [o["currentValue"] for o in again["configOptions"]] == ["script:m", "default", "high"]


async def test_failover_is_announced(script, start, project, tmp_path):
    path = json.dumps(str(tmp_path / "script.toml"))
    script("[[turn]]\n[[turn.reply]]\nsteps = [{ text = 'fine' }]\n", TWO_ENDPOINTS.format(script=path))
    broken = tmp_path / "broken.toml"
    broken.write_text("[[turn]]\n[[turn.reply]]\nsteps = [{ error = 'busy', status = 503 }]\n")
    config = Path(os.environ["HOME"]) / ".config" / "helexa-acp" / "config.toml"
    config.write_text(config.read_text().replace(path, json.dumps(str(broken)), 1))
    async with start() as agent:
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(project)
        assert await agent.prompt(session, "x") == "end_turn"
        assert agent.text() == "fine"
        (notice,) = [u for u in agent.updates if u["sessionUpdate"] == "notice"]
        assert "using other:n" in notice["title"]
        models = [u for u in agent.updates if u["sessionUpdate"] == "config_option_update"][-1][
            "configOptions"
        ][0]
        assert models["currentValue"] == "other:n"
        assert [group["name"] for group in models["options"]] == ["script", "other"]


async def test_a_client_without_notices_gets_text(script, start, project):
    script(ECHO)
    server = {"name": "broken", "command": "/no/such/program", "args": [], "env": []}
    async with start() as agent:
        await agent.initialize()
        session = (await agent.request("session/new", cwd=str(project), mcpServers=[server]))["sessionId"]
        assert await agent.prompt(session, "hello") == "end_turn"
        assert "MCP server broken is not available" in agent.text()


async def test_two_editors_share_a_session(script, start, project):
    script("[[turn]]\nmatch = 'wait'\n[[turn.reply]]\nsteps = [{ text = 'W' }, { hang = true }]\n")
    async with start() as one, start() as two:
        await one.initialize()
        await two.initialize()
        session = await one.new_session(project)
        await one.prompt(session, "from one")
        await two.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        await two.prompt(session, "from two")
        one.messages.clear()
        await one.prompt(session, "one again")
        assert "You said: from two" in one.text()
        turn = one.begin("session/prompt", prompt(session, "wait"))
        await one.until(lambda: one.text().endswith("W"))
        with pytest.raises(RpcFailureError, match="busy in another editor"):
            await two.prompt(session, "me too")
        one.notify("session/cancel", sessionId=session)
        await one.result(turn)
        assert await two.prompt(session, "now") == "end_turn"


async def test_slash_commands_act_or_expand(script, start, project):
    script("[[turn]]\nmatch = 'edit'\n[[turn.reply]]\nsteps = [{ call = 'write', args = { path = 'a', content = 'new' } }]\n"
           "[[turn.reply]]\nsteps = [{ text = 'done' }]\n", "price = { input = 1.0, output = 1.0 }\n")  # fmt: skip
    (project / "a").write_text("old")
    folder = project / ".helexa" / "commands"
    folder.mkdir(parents=True)
    (folder / "shout.md").write_text("---\ndescription: Say it loud\n---\nSay $ARGUMENTS loudly.")
    (project.parent / "secret.md").write_text("from elsewhere")
    (folder / "leak.md").symlink_to(project.parent / "secret.md")
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.until(lambda: "available_commands_update" in agent.kinds())
        offered = {c["name"]: c for u in agent.updates for c in u.get("availableCommands", [])}
        assert {
            "compact",
            "model",
            "plan",
            "undo",
            "rewind",
            "cost",
            "init",
            "permissions",
            "shout",
        } <= offered.keys()
        assert offered["shout"]["description"] == "Say it loud"
        assert "leak" not in offered

        async def run(text):
            agent.messages.clear()
            assert await agent.prompt(session, text) == "end_turn"
            return agent.text()

        assert "You said: Say hello loudly." in await run("/shout hello")
        await run("edit it")
        assert (project / "a").read_text() == "new"
        assert "restored: `a`" in await run("/undo")
        assert (project / "a").read_text() == "old"
        await run("edit it")
        (project / "a").write_text("newer")
        assert "has changed since" in await run("/undo")
        assert (project / "a").read_text() == "newer"
        assert "requests" in await run("/cost")
        assert "USD" in agent.text()
        assert "script:m" in await run("/model")
        assert "Not changed" in await run("/model script:nope")
        assert "plan" in await run("/plan")
        assert "default" in await run("/plan off")
        assert "You said: think" in await run("/plan think")
        assert "AGENTS.md" in await run("/init")
        assert "No permissions" in await run("/permissions")
        assert "You said: /unknown" in await run("/unknown")


async def test_compaction_keeps_the_prompt_inside_the_window(script, start, project):
    script(
        "[[turn]]\nmatch = 'You condense'\n[[turn.reply]]\nsteps = [{ text = 'SUMMARY OF ALL' }]\n"
        "[[turn]]\nmatch = 'fill'\n[[turn.reply]]\nsteps = [{ text = '" + "x" * 8000 + "' }]\n"
    )
    config = Path(os.environ["HOME"]) / ".config" / "helexa-acp" / "config.toml"
    config.write_text(config.read_text().replace("context_window = 100000", "context_window = 12000"))
    async with start() as agent:
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(project)
        for _ in range(6):
            assert await agent.prompt(session, "fill it") == "end_turn"
        kinds = [kind for kind in agent.kinds() if kind.startswith("compaction")]
        first = kinds[: kinds.index("compaction_update", 1) + 1]
        assert first == [
            "compaction_update",
            "compaction_summary_chunk",
            "compaction_summary_chunk",
            "compaction_update",
        ]
        used = [u["used"] for u in agent.updates if u["sessionUpdate"] == "usage_update"]
        assert any(later < before - 1000 for before, later in itertools.pairwise(used))
        live = fold(agent.updates)
        agent.messages.clear()
        await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        assert without_user(fold(agent.updates)) == live
        assert "compaction_update" in agent.kinds()
        assert [u["used"] for u in agent.updates if u["sessionUpdate"] == "usage_update"] == used[-1:]


async def test_a_client_without_compaction_gets_text(script, start, project):
    script(
        "[[turn]]\nmatch = 'You condense'\n[[turn.reply]]\nsteps = [{ text = 'SUMMARY' }]\n"
        "[[turn]]\nmatch = 'fill'\n[[turn.reply]]\nsteps = [{ text = '" + "x" * 8000 + "' }]\n"
    )
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        for text in ("fill it", "fill it", "/compact"):
            assert await agent.prompt(session, text) == "end_turn"
        assert "is now a summary" in agent.text()
        agent.messages.clear()
        await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        assert "is now a summary" in agent.text()
        assert not any(kind.startswith("compaction") for kind in agent.kinds())


async def test_a_missing_prompt_file_is_an_error(script, start, project, tmp_path):
    script(ECHO)
    config = Path(os.environ["HOME"]) / ".config" / "helexa-acp" / "config.toml"
    config.write_text(f'system_prompt_path = "{tmp_path}/none"\n' + config.read_text())
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        with pytest.raises(RpcFailureError, match="system_prompt_path"):
            await agent.prompt(session, "x")


async def test_a_user_can_sign_out_and_in_again(script, start, project):
    script(ECHO)
    async with start() as agent:
        await agent.initialize({"auth": {"terminal": True}})
        await agent.request("logout")
        with pytest.raises(RpcFailureError) as error:
            await agent.new_session(project)
        assert error.value.error["code"] == -32000
        await agent.request("authenticate", methodId="config")
        assert await agent.prompt(await agent.new_session(project), "x") == "end_turn"


async def test_kill_9_never_loses_a_finished_round(script, env, project):
    rounds = "".join(
        f"[[turn.reply]]\nsteps = [{{ text = 'round {n} ' }}, {{ call = 'list' }}]\n" for n in range(40)
    )
    script("[[turn]]\nmatch = 'go'\n" + rounds)
    chance = random.Random(7)  # noqa: S311 - no secret
    for _ in range(4):
        session, killed = await _killed_after(env, project, chance.randrange(1, 12), chance.random() * 0.05)
        finished = killed.text().count("round") - 1  # the last one may have been in progress
        async with AgentProcess(env) as again:
            await again.initialize()
            await again.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
            assert again.text().count("round") >= finished
            before = fold(killed.updates)[: 2 * finished]
            kept = without_user(fold(again.updates))
            assert [key for key, _ in kept[: len(before)]] == [key for key, _ in before]
            assert await again.prompt(session, "hello") == "end_turn"


async def _killed_after(env, project, num_rounds, pause_s):
    agent = await AgentProcess(env).__aenter__()
    await agent.initialize()
    session = await agent.new_session(project)
    agent.begin("session/prompt", prompt(session, "go"))
    await agent.until(lambda: agent.text().count("round") > num_rounds)
    await asyncio.sleep(pause_s)
    os.killpg(agent.process.pid, signal.SIGKILL)
    await agent.process.wait()
    await asyncio.gather(*agent._tasks, return_exceptions=True)
    return session, agent

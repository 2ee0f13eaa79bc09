from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from acp_testing.process import FULL_CLIENT, HOLD, RpcFailureError, choose, fold, prompt

EDITING = """
[[turn]]
match = "edit"
[[turn.reply]]
steps = [
  { reasoning = "Look first." }, { text = "I will write." },
  { call = "write", args = { path = "a.txt", content = "one\\ntwo\\n" } }, { usage = { prompt = 100, completion = 5 } },
]
[[turn.reply]]
steps = [
  { call = "read", args = { path = "a.txt" } }, { call = "list" },
  { call = "plan", args = { entries = [{ content = "check", status = "in_progress" }] } },
  { call = "edit", args = { path = "a.txt", old_text = "two", new_text = "2" } },
  { call = "shell", args = { command = "cat a.txt" } },
]
[[turn.reply]]
steps = [{ text = "Done." }]
"""


async def test_a_turn_edits_files_and_load_replays_what_was_shown(script, start, project):
    script(EDITING, "price = { input = 1.0, output = 2.0 }\n")
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        assert await agent.prompt(session, "please edit") == "end_turn"
        assert (project / "a.txt").read_text() == "one\n2\n"
        live = fold(agent.updates)
        assert {call["params"]["toolCall"]["kind"] for call in agent.calls("session/request_permission")} == {
            "edit",
            "execute",
        }
        usage = [u for u in agent.updates if u["sessionUpdate"] == "usage_update"]
        assert usage[0]["used"] == 105
        assert usage[0]["cost"] == {"amount": 0.00011, "currency": "USD"}

    async with start() as agent:
        await agent.initialize()
        future = agent.begin(
            "session/load", {"sessionId": session, "cwd": str(project), "mcpServers": []}, id_="load"
        )
        await agent.result(future)
        answered = agent.messages.index(next(m for m in agent.messages if m.get("id") == "load"))
        before = [
            m["params"]["update"] for m in agent.messages[:answered] if m.get("method") == "session/update"
        ]
        replayed = [entry for entry in fold(before) if not entry[0].startswith("user_message_chunk")]
        assert replayed == live


async def test_resume_does_not_replay(script, start, project):
    script(EDITING)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "say something")
        await agent.request("session/close", sessionId=session)
        agent.messages.clear()
        await agent.request("session/resume", sessionId=session, cwd=str(project))
        assert "agent_message_chunk" not in agent.kinds()
        assert await agent.prompt(session, "more") == "end_turn"


async def test_files_and_commands_go_through_the_client(script, start, project):
    script(EDITING)
    buffers: dict[str, str] = {}
    ended: list[str] = []

    def write(params):
        buffers[params["path"]] = params["content"]
        Path(params["path"]).write_text(params["content"])

    async with start() as agent:
        agent.answers |= {
            "fs/read_text_file": lambda p: {"content": buffers[p["path"]]},
            "fs/write_text_file": write,
            "terminal/create": lambda p: {"terminalId": "t1"},
            "terminal/wait_for_exit": lambda p: {"exitCode": 0},
            "terminal/output": lambda p: {"output": "from the terminal", "truncated": False},
            "terminal/release": lambda p: ended.append(p["terminalId"]) or {},
        }
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(project)
        assert await agent.prompt(session, "please edit") == "end_turn"
        assert buffers == {str(project / "a.txt"): "one\n2\n"}
        assert ended == ["t1"]
        assert [m["method"] for m in agent.messages if m.get("method", "").startswith("terminal/")] == [
            "terminal/create",
            "terminal/wait_for_exit",
            "terminal/output",
            "terminal/release",
        ]
        agent.messages.clear()
        await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        assert "t1" not in json.dumps(agent.messages)
        assert "from the terminal" in json.dumps(agent.messages)


async def test_cancel_ends_the_turn_with_cancelled_and_the_next_one_works(script, start, project):
    script('[[turn]]\nmatch = "wait"\n[[turn.reply]]\nsteps = [{ text = "Thinking" }, { hang = true }]\n')
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        agent.notify("session/cancel", sessionId=session)  # idle, so it has no effect
        turn = agent.begin("session/prompt", prompt(session, "wait"))
        await agent.until(lambda: agent.text())
        agent.notify("session/cancel", sessionId=session)
        assert await agent.result(turn) == {"stopReason": "cancelled"}
        assert await agent.prompt(session, "hello") == "end_turn"
        assert "You said: hello" in agent.text()


async def test_cancel_right_after_the_prompt_takes_effect(script, start, project):
    script("[[turn]]\n[[turn.reply]]\nsteps = [{ hang = true }]\n")
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "x"))
        agent.notify("session/cancel", sessionId=session)
        assert await agent.result(turn) == {"stopReason": "cancelled"}


async def test_cancel_request_ends_a_prompt_with_cancelled(script, start, project):
    script('[[turn]]\n[[turn.reply]]\nsteps = [{ text = "x" }, { hang = true }]\n')
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "x"), id_="the-prompt")
        await agent.until(lambda: agent.text())
        agent.notify("$/cancel_request", requestId="the-prompt")
        assert await agent.result(turn) == {"stopReason": "cancelled"}


async def test_cancel_withdraws_an_open_permission_request(script, start, project):
    script(EDITING)
    async with start() as agent:
        agent.answers["session/request_permission"] = lambda _: HOLD
        await agent.initialize()
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "edit"))
        await agent.until(lambda: agent.calls("session/request_permission"))
        agent.notify("session/cancel", sessionId=session)
        assert await agent.result(turn) == {"stopReason": "cancelled"}
        asked = agent.calls("session/request_permission")[0]["id"]
        assert agent.calls("$/cancel_request")[0]["params"] == {"requestId": asked}
        assert [u["status"] for u in agent.updates if u.get("status") == "failed"]
        assert not (project / "a.txt").exists()


async def test_a_cancelled_permission_cancels_the_turn(script, start, project):
    script(EDITING)
    async with start() as agent:
        agent.answers["session/request_permission"] = lambda _: {"outcome": {"outcome": "cancelled"}}
        await agent.initialize()
        session = await agent.new_session(project)
        assert await agent.prompt(session, "edit") == "cancelled"


async def test_cancel_kills_the_command_and_its_children(script, start, project):
    script(
        '[[turn]]\n[[turn.reply]]\nsteps = [{ call = "shell", args = { command = "sleep 300 & echo $! > pid; wait" } }]\n'
    )
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "go"))
        pid_file = project / "pid"
        await agent.until(lambda: any(u.get("status") == "in_progress" for u in agent.updates))
        pid = await _content(pid_file)
        agent.notify("session/cancel", sessionId=session)
        assert await agent.result(turn) == {"stopReason": "cancelled"}
        await _gone(int(pid))


async def test_end_of_input_kills_commands_and_their_children(script, start, project):
    script(
        '[[turn]]\n[[turn.reply]]\nsteps = [{ call = "shell", args = { command = "sleep 300 & echo $! > pid; wait" } }]\n'
    )
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "go"))
        pid = await _content(project / "pid")
    assert agent.process.returncode == 0
    await _gone(int(pid))
    assert (await turn)["result"] == {"stopReason": "cancelled"}


@pytest.mark.parametrize("how", ["cancel", "terminate"])
async def test_terminals_are_killed_and_released(script, start, project, how):
    script('[[turn]]\n[[turn.reply]]\nsteps = [{ call = "shell", args = { command = "sleep 300" } }]\n')
    verbs: list[str] = []

    def seen(verb, result):
        return lambda _: verbs.append(verb) or result

    async with start() as agent:
        agent.answers |= {
            "terminal/create": lambda _: {"terminalId": "t1"},
            "terminal/wait_for_exit": seen("wait", HOLD),
            "terminal/kill": seen("kill", {}),
            "terminal/output": seen("output", {"output": "so far", "truncated": False}),
            "terminal/release": seen("release", {}),
        }
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "go"))
        await agent.until(lambda: "wait" in verbs)
        if how == "cancel":
            agent.notify("session/cancel", sessionId=session)
        else:
            agent.process.terminate()
        assert await agent.result(turn) == {"stopReason": "cancelled"}
        assert verbs == ["wait", "kill", "output", "release"]


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("fs/read_text_file", "{ call = 'read', args = { path = 'a' } }"),
        ("fs/read_text_file", "{ call = 'edit', args = { path = 'a', old_text = 'a', new_text = 'b' } }"),
        ("fs/write_text_file", "{ call = 'write', args = { path = 'new', content = 'b' } }"),
        ("terminal/create", "{ call = 'shell', args = { command = 'true' } }"),
    ],
)
async def test_a_client_that_never_answers_does_not_delay_a_cancelled_turn(
    script, start, project, method, call
):
    script(f"[[turn]]\nmatch = 'go'\n[[turn.reply]]\nsteps = [{call}]\n")
    (project / "a").write_text("a")
    late: list[str] = []
    async with start() as agent:
        agent.answers |= {
            method: lambda _: HOLD,
            "terminal/release": lambda params: late.append(params["terminalId"]) or {},
        }
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "go"))
        await agent.until(lambda: agent.calls(method))
        agent.notify("session/cancel", sessionId=session)
        if method == "terminal/create":  # a terminal that is created late is released
            agent.send({"id": agent.calls(method)[0]["id"], "result": {"terminalId": "t1"}})
        assert await agent.result(turn) == {"stopReason": "cancelled"}
        assert late == (["t1"] if method == "terminal/create" else [])
        assert await agent.prompt(session, "hello") == "end_turn"


async def test_a_new_prompt_cancels_the_previous_one(script, start, project):
    script('[[turn]]\nmatch = "wait"\n[[turn.reply]]\nsteps = [{ text = "x" }, { hang = true }]\n')
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        first = agent.begin("session/prompt", prompt(session, "wait"))
        await agent.until(lambda: agent.text())
        assert await agent.prompt(session, "other") == "end_turn"
        assert await agent.result(first) == {"stopReason": "cancelled"}


async def test_rejected_calls_reach_the_model_as_errors(script, start, project):
    script(EDITING)
    async with start() as agent:
        agent.answers["session/request_permission"] = choose("reject_once")
        await agent.initialize()
        session = await agent.new_session(project)
        assert await agent.prompt(session, "edit") == "end_turn"
        assert list(project.iterdir()) == []
        failed = [u for u in agent.updates if u.get("status") == "failed"]
        assert "the user rejected this call" in json.dumps(failed)


async def test_always_allow_is_remembered_across_restarts(script, start, project):
    script(
        '[[turn]]\n[[turn.reply]]\nsteps = [{ call = "shell", args = { command = "true && echo hi" } }]\n'
        '[[turn.reply]]\nsteps = [{ text = "ok" }]\n'
    )
    for expected in (1, 0):
        async with start() as agent:
            agent.answers["session/request_permission"] = choose("allow_always")
            await agent.initialize()
            session = await agent.new_session(project)
            await agent.prompt(session, "go")
            assert len(agent.calls("session/request_permission")) == expected


@pytest.mark.parametrize(
    ("mode", "asked", "written"),
    [("default", 1, True), ("accept_edits", 0, True), ("bypass", 0, True), ("plan", 0, False)],
)
async def test_modes_decide_which_calls_ask_and_run(script, start, project, mode, asked, written):
    script(
        '[[turn]]\n[[turn.reply]]\nsteps = [{ call = "write", args = { path = "a", content = "b" } }]\n'
        '[[turn.reply]]\nsteps = [{ text = "ok" }]\n'
    )
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.request("session/set_mode", sessionId=session, modeId=mode)
        assert await agent.prompt(session, "go") == "end_turn"
        assert len(agent.calls("session/request_permission")) == asked
        assert (project / "a").exists() is written


async def test_provider_errors_reach_the_client_and_the_session_continues(script, start, project):
    script(
        '[[turn]]\nmatch = "key"\n[[turn.reply]]\nsteps = [{ error = "bad key", status = 401 }]\n'
        '[[turn]]\nmatch = "break"\n[[turn.reply]]\nsteps = [{ text = "a" }, { error = "broken", status = 400 }]\n'
    )
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        with pytest.raises(RpcFailureError) as auth:
            await agent.prompt(session, "key")
        assert auth.value.error["code"] == -32000
        with pytest.raises(RpcFailureError) as broken:
            await agent.prompt(session, "break")
        assert broken.value.error["code"] == -32603
        assert broken.value.error["data"] == {
            "endpoint": "script",
            "model": "m",
            "status": 400,
            "retryable": False,
            "details": broken.value.error["message"],
        }
        assert await agent.prompt(session, "hello") == "end_turn"


@pytest.mark.parametrize(
    ("finish", "stop"), [("length", "max_tokens"), ("refusal", "refusal"), ("stop", "end_turn")]
)
async def test_finish_reasons_become_stop_reasons(script, start, project, finish, stop):
    script(f'[[turn]]\n[[turn.reply]]\nsteps = [{{ text = "x" }}, {{ finish = "{finish}" }}]\n')
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        assert await agent.prompt(session, "go") == stop


async def test_endless_rounds_are_capped(script, start, project):
    script('[[turn]]\n[[turn.reply]]\nsteps = [{ call = "list" }]\n')
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        assert await agent.prompt(session, "go") == "max_turn_requests"


async def test_progress_of_a_cold_model_is_a_card(script, start, project):
    script(
        '[[turn]]\n[[turn.reply]]\nsteps = [{ progress = "loading 10 %" }, { progress = "loading 90 %" }, { text = "hi" }]\n'
    )
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "go")
        cards = [u for u in agent.updates if u["sessionUpdate"].startswith("tool_call")]
        assert [card.get("title") for card in cards] == ["loading 10 %", "loading 90 %", None]
        assert cards[-1]["status"] == "completed"
        live = fold(agent.updates)
        agent.messages.clear()
        await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        assert [e for e in fold(agent.updates) if not e[0].startswith("user")] == live


async def _content(path: Path) -> str:
    async with asyncio.timeout(60):
        while not path.exists() or not path.read_text().strip():
            await asyncio.sleep(0.01)
    return path.read_text()


async def _gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while _alive(pid):
            await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

"""Third-party clients drive the real program."""

from __future__ import annotations

import json
import subprocess

import pytest
from acp_testing import clients
from acp_testing.clients import run
from acp_testing.process import fold, without_user
from acp_testing.schema import judge_record

pytestmark = pytest.mark.clients

SCRIPT = """
[[turn]]
match = "edit"
[[turn.reply]]
steps = [{ reasoning = "Hm." }, { text = "Writing." }, { call = "write", args = { path = "a.txt", content = "one\\n" } }]
[[turn.reply]]
steps = [{ call = "edit", args = { path = "a.txt", old_text = "one", new_text = "1" } }, { call = "list" }]
[[turn.reply]]
steps = [{ text = "Done." }]
[[turn]]
match = "wait"
[[turn.reply]]
steps = [{ text = "Waiting." }, { hang = true }]
"""

TIMEOUT_S = 90


def kinds(updates):
    return {update["sessionUpdate"] for update in updates}


@pytest.fixture
def agent(tmp_path):
    """The agent's command. The schema judges every line of the agent after the test."""
    record = tmp_path / "lines"
    yield clients.recorded_command(record)
    assert judge_record(record, clients.SCHEMA) > 0


def test_the_typescript_sdk_runs_a_session(script, project, agent):
    env = script(SCRIPT)
    seen = json.loads(run(clients.ts_sdk_client(project, "edit", "wait", agent), env).stdout)
    assert seen["initialize"]["protocolVersion"] == 1
    assert seen["first"] == {"stopReason": "end_turn"}
    assert seen["second"] == {"stopReason": "cancelled"}
    assert seen["permissions"] == 2
    assert seen["writes"] == 2
    assert (project / "a.txt").read_text() == "1\n"
    assert [o["currentValue"] for o in seen["options"]["configOptions"] if o["id"] == "mode"] == ["plan"]
    assert len(seen["list"]["sessions"]) == 1
    assert {"agent_message_chunk", "agent_thought_chunk", "tool_call", "usage_update"} <= kinds(
        seen["updates"]
    )
    assert "user_message_chunk" in kinds(seen["replayed"])
    assert without_user(fold(seen["replayed"])) == fold(seen["updates"])


def test_the_python_sdk_runs_a_session(script, project, agent):
    env = script(SCRIPT)
    seen = json.loads(run(clients.python_sdk_client(project, "edit", "wait", agent), env).stdout)
    assert seen["protocol"] == 1
    assert seen["first"] == "end_turn"
    assert seen["second"] == "cancelled"
    assert seen["permissions"] == 2
    assert seen["writes"] == 2
    assert (project / "a.txt").read_text() == "1\n"
    assert "user_message_chunk" in kinds(seen["replayed"])
    assert without_user(fold(seen["replayed"])) == fold(seen["updates"])


@pytest.fixture
def acpx(script, project, agent):
    env = script(SCRIPT)
    agent = " ".join(agent)

    def call(*args, flags=(), check=True):
        base = [clients.NODE, clients.ACPX, "--agent", agent, "--cwd", project, "--timeout", "60", *flags]
        return run([*base, *args], env, project, check=check)

    yield call, env, agent
    call("sessions", "close", check=False)


def messages(done):
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_acpx_edits_with_permission(acpx, project):
    call, *_ = acpx
    done = call("exec", "please edit", flags=("--format", "json", "--json-strict", "--approve-all"))
    seen = messages(done)
    assert any(m.get("method") == "session/request_permission" for m in seen)
    assert any(m.get("result", {}).get("stopReason") == "end_turn" for m in seen)
    assert (project / "a.txt").read_text() == "1\n"


def test_acpx_denies_an_edit(acpx, project):
    call, *_ = acpx
    call("exec", "please edit", flags=("--format", "json", "--deny-all"), check=False)
    assert not (project / "a.txt").exists()


def test_acpx_session_mode_cancel_and_load(acpx, project):
    call, env, agent = acpx
    call("sessions", "new")
    call("set-mode", "accept_edits")
    done = call("prompt", "please edit", flags=("--format", "json", "--approve-all"))
    assert not any(m.get("method") == "session/request_permission" for m in messages(done))
    assert (project / "a.txt").read_text() == "1\n"
    base = [str(clients.NODE), str(clients.ACPX), "--agent", agent, "--cwd", str(project), "--format", "json"]
    waiting = subprocess.Popen(
        [*base, "prompt", "wait"], env=env, cwd=project, stdout=subprocess.PIPE, text=True
    )
    try:
        for line in waiting.stdout:
            if "Waiting." in line:
                break
        call("cancel")
        rest = waiting.stdout.read()
        assert '"cancelled"' in rest
        waiting.wait(TIMEOUT_S)
    finally:
        waiting.kill()
        waiting.wait()
        waiting.stdout.close()
    listed = messages(call("sessions", "list", flags=("--format", "json")))
    session_id = json.dumps(listed)
    assert "ses_" in session_id
    history = call("sessions", "history").stdout
    assert "please edit" in history
    call("sessions", "close")
    id_ = session_id[session_id.index("ses_") :].split('"')[0]
    call("sessions", "new", "--resume-session", id_)
    done = call("prompt", "hello", flags=("--format", "json"))
    assert any(m.get("result", {}).get("stopReason") == "end_turn" for m in messages(done))

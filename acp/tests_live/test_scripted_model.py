"""Third-party clients have a file edited, with permission, by the real program with a live endpoint.

    HELEXA_ACP_TEST_BASE_URL=http://127.0.0.1:8000/v1 HELEXA_ACP_TEST_MODEL=m python -m pytest tests_live/test_scripted_model.py

The model must call `write` for a.txt with "one", then `edit` to replace "one" by "two", then say something; after a call that
was rejected it must say something too. No small model does that reliably, so the server has to follow a script.
"""

from __future__ import annotations

import json

import pytest
from acp_testing import clients
from acp_testing.clients import run
from acp_testing.process import FULL_CLIENT, AgentProcess, choose, fold, without_user
from acp_testing.schema import judge_record

pytestmark = pytest.mark.clients


@pytest.fixture
def agent(tmp_path):
    """The agent's command. The schema judges every line of the agent after the test."""
    record = tmp_path / "lines"
    yield clients.recorded_command(record)
    assert judge_record(record, clients.SCHEMA) > 0


@pytest.mark.parametrize("client", [clients.ts_sdk_client, clients.python_sdk_client])
def test_official_sdks(live_env, folder, agent, client):
    argv = client(folder, "Make it two.", "Again.", agent)
    seen = json.loads(run(argv, {**live_env, "CANCEL_AT_ONCE": "1"}).stdout)
    assert (seen["permissions"], seen["writes"]) == (2, 2)
    assert (folder / "a.txt").read_text() == "two"
    cards = [entry for key, entry in fold(seen["updates"]) if key.startswith("card")]
    assert [card["status"] for card in cards] == ["completed", "completed"]
    assert without_user(fold(seen["replayed"])) == fold(seen["updates"])


@pytest.mark.parametrize(
    ("answer", "asked", "content"), [("--approve-all", 2, "two"), ("--deny-all", 1, None)]
)
def test_acpx(live_env, folder, agent, answer, asked, content):
    argv = [
        clients.NODE,
        clients.ACPX,
        "--agent",
        " ".join(agent),
        "--cwd",
        folder,
        "--format",
        "json",
        answer,
    ]
    done = run([*argv, "exec", "Make it two."], live_env, folder, check=content is not None)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    # A file that was not written cannot be edited, which is found out before the user is asked.
    assert sum(line.get("method") == "session/request_permission" for line in lines) == asked
    assert any(line.get("result", {}).get("stopReason") == "end_turn" for line in lines)
    path = folder / "a.txt"
    assert (path.read_text() if path.exists() else None) == content


async def test_the_permission_question_shows_what_would_be_written(live_env, folder):
    async with AgentProcess(live_env) as agent:
        await agent.initialize({"session": FULL_CLIENT["session"]})
        session = await agent.new_session(folder)
        agent.answers["session/request_permission"] = choose("allow_once")
        assert await agent.prompt(session, "Make it two.") == "end_turn"
        asked = [call["params"]["toolCall"]["content"] for call in agent.calls("session/request_permission")]
    path = str(folder / "a.txt")
    assert [(d["path"], d.get("oldText"), d["newText"]) for (d,) in asked] == [
        (path, None, "one"),
        (path, "one", "two"),
    ]
    assert (folder / "a.txt").read_text() == "two"

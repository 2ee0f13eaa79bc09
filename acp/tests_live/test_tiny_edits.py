"""Third-party clients have files edited by helexa-tiny, which has learned two such requests.

HELEXA_ACP_TEST_BASE_URL=http://127.0.0.1:31313/v1 HELEXA_ACP_TEST_MODEL=helexa-tiny python -m pytest tests_live/test_tiny_edits.py
"""

from __future__ import annotations

import json

import pytest
from acp_testing import clients
from acp_testing.clients import run
from acp_testing.process import FULL_CLIENT, AgentProcess, choose, fold, without_user
from acp_testing.schema import judge_record

pytestmark = pytest.mark.clients

WRITE, EDIT = "Write the file notes.md.", "Replace cortex by neuron in notes.md."
WRITTEN, EDITED = "Ask cortex.\n", "Ask neuron.\n"


@pytest.fixture
def agent(tmp_path):
    """The agent's command. The schema judges every line of the agent after the test."""
    record = tmp_path / "lines"
    yield clients.recorded_command(record)
    assert judge_record(record, clients.SCHEMA) > 0


@pytest.mark.parametrize(("wish", "after"), [(WRITE, WRITTEN), (EDIT, EDITED)])
@pytest.mark.parametrize("client", [clients.ts_sdk_client, clients.python_sdk_client])
def test_official_sdks(live_env, folder, agent, client, wish, after):
    if wish == EDIT:
        (folder / "notes.md").write_text(WRITTEN)
    argv = client(folder, wish, "Tell me a long story.", agent)
    seen = json.loads(run(argv, {**live_env, "CANCEL_AT_ONCE": "1"}).stdout)
    assert (seen["permissions"], seen["writes"]) == (1, 1)
    assert (folder / "notes.md").read_text() == after
    cards = [entry for key, entry in fold(seen["updates"]) if key.startswith("card")]
    assert [card["status"] for card in cards] == ["completed"]
    assert without_user(fold(seen["replayed"])) == fold(seen["updates"])


@pytest.mark.parametrize(("answer", "after"), [("--approve-all", EDITED), ("--deny-all", WRITTEN)])
def test_acpx(live_env, folder, agent, answer, after):
    (folder / "notes.md").write_text(WRITTEN)
    argv = [clients.NODE, clients.ACPX, "--agent", " ".join(agent), "--cwd", folder, "--format", "json"]
    done = run([*argv, answer, "exec", EDIT], live_env, folder, check=after == EDITED)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert sum(line.get("method") == "session/request_permission" for line in lines) == 1
    assert any(line.get("result", {}).get("stopReason") == "end_turn" for line in lines)
    assert (folder / "notes.md").read_text() == after


async def test_what_was_refused_is_said_and_a_mode_saves_the_question(live_env, folder):
    async with AgentProcess(live_env) as agent:
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(folder)
        agent.answers["session/request_permission"] = choose("reject_once")
        assert await agent.prompt(session, WRITE) == "end_turn"
        assert "not written" in agent.text()
        assert not (folder / "notes.md").exists()
        other = await agent.new_session(folder)
        await agent.request("session/set_mode", sessionId=other, modeId="accept_edits")
        asked = len(agent.calls("session/request_permission"))
        assert await agent.prompt(other, WRITE) == "end_turn"
        assert len(agent.calls("session/request_permission")) == asked

"""The real program against a live OpenAI-compatible endpoint, such as helexa-tiny behind cortex.

    HELEXA_ACP_TEST_BASE_URL=http://127.0.0.1:31313/v1 HELEXA_ACP_TEST_MODEL=helexa-tiny python -m pytest tests_live/test_live_endpoint.py

Not in the default test paths, as it needs a running server. HELEXA_ACP_TEST_MODEL may be omitted if the server lists its
models; HELEXA_ACP_TEST_API_KEY is used if set. Without a base URL these tests fail instead of being skipped.
"""

from __future__ import annotations

import json

import pytest
from acp_testing import clients
from acp_testing.clients import run
from acp_testing.process import FULL_CLIENT, AgentProcess, fold, prompt, without_user

pytestmark = pytest.mark.clients

QUESTION = "Which port does neuron listen on?"
STORY = "Tell me a long story."
ENDS = {"end_turn", "max_tokens"}


async def test_prompt_mode_cancel_and_load(live_env, folder):
    async with AgentProcess(live_env) as agent:
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(folder)
        await agent.until(agent.model_names)
        assert await agent.prompt(session, QUESTION) in ENDS
        assert agent.text() or "agent_thought_chunk" in agent.kinds()
        turn = agent.begin("session/prompt", prompt(session, "Tell me a long story."))
        agent.notify("session/cancel", sessionId=session)
        assert await agent.result(turn) == {"stopReason": "cancelled"}
        await agent.request("session/set_mode", sessionId=session, modeId="plan")
        live = fold(agent.updates)
        agent.messages.clear()
        await agent.request("session/load", sessionId=session, cwd=str(folder), mcpServers=[])
        assert without_user(fold(agent.updates)) == live


@pytest.mark.parametrize("client", [clients.ts_sdk_client, clients.python_sdk_client])
def test_official_sdks(live_env, folder, client):
    done = run(client(folder, QUESTION, STORY, clients.agent_command()), {**live_env, "CANCEL_AT_ONCE": "1"})
    seen = json.loads(done.stdout)
    reasons = [end["stopReason"] if isinstance(end, dict) else end for end in (seen["first"], seen["second"])]
    assert reasons[0] in ENDS
    assert reasons[1] == "cancelled"
    assert any(u["sessionUpdate"].startswith("agent_") for u in seen["updates"])
    assert without_user(fold(seen["replayed"])) == fold(seen["updates"])


def test_doctor(live_env):
    run([*clients.agent_command(), "doctor"], live_env)


def test_acpx(live_env, folder):
    argv = [clients.NODE, clients.ACPX, "--agent", " ".join(clients.agent_command()), "--cwd", folder]
    done = run([*argv, "--format", "json", "--approve-all", "exec", "Hello!"], live_env)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert any(m.get("result", {}).get("stopReason") in ENDS for m in lines), done.stderr

"""helexa-acp with cortex as its endpoint: the agent's own live tests, run against us.

helexa-tiny answers prompts and makes the two edits it knows by heart; for a round of several edits a scripted
node stands behind the gateway.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet.snapshot import NodeConfig, ProfileView
from tests.e2e.conftest import TINY, Stack, clean_environment
from tests.e2e.test_lifecycle import unload_in_admin
from tests.gateway.conftest import House, make_house
from tests.stubs.script import follow

pytestmark = pytest.mark.e2e

ACP = Path(__file__).parents[2] / "acp"
DEADLINE_S = 300
CONTEXT = 100_000
EDITS = [
    ("write", {"path": "a.txt", "content": "one"}),
    ("edit", {"path": "a.txt", "old_text": "one", "new_text": "two"}),
]


def live_tests(base_url: str, model: str, file: str) -> subprocess.CompletedProcess[str]:
    env = clean_environment() | {"HELEXA_ACP_TEST_BASE_URL": base_url, "HELEXA_ACP_TEST_MODEL": model}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests_live/{file}"],
        cwd=ACP,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


def assert_passed(told: subprocess.CompletedProcess[str]) -> None:
    assert told.returncode == 0, told.stdout[-6000:]
    assert "skipped" not in told.stdout


@pytest.mark.parametrize("file", ["test_live_endpoint.py", "test_cortex.py", "test_tiny_edits.py"])
def test_prompts_counts_and_warm_models(stack: Stack, file: str):
    stack.chat("Hello!")  # loads it
    assert_passed(live_tests(f"{stack.api}/v1", TINY, file))


async def test_a_cold_model_is_marked_and_its_load_is_a_status(stack: Stack, admin, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ACP / "tests")
    from acp_testing.clients import npm_install
    from acp_testing.process import FULL_CLIENT, AgentProcess, fold, prompt, without_user

    await asyncio.to_thread(npm_install)
    await asyncio.to_thread(unload_in_admin, stack, admin)
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    env |= {"HELEXA_ACP_BASE_URL": f"{stack.api}/v1", "HELEXA_ACP_MODEL": TINY}
    async with AgentProcess(env) as agent:
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(tmp_path)
        await agent.until(lambda: f"{TINY} (cold)" in agent.model_names().values())
        worker = stack.process_of("tasks")
        worker.suspend()  # the load stays queued until the status was seen
        try:
            turn = agent.begin("session/prompt", prompt(session, "Hello!"))
            status = await agent.until(
                lambda: [u for u in agent.updates if u["sessionUpdate"] == "tool_call"]
            )
        finally:
            worker.resume()
        assert TINY in status[0]["title"]
        assert (await agent.result(turn))["stopReason"] in {"end_turn", "max_tokens"}
        ended = [u for u in agent.updates if u.get("toolCallId") == status[0]["toolCallId"]][-1]
        assert ended["status"] == "completed"
        assert {"agent_message_chunk", "agent_thought_chunk"} & set(agent.kinds())
        live = fold(agent.updates)
        agent.messages.clear()
        await agent.request("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])
        assert without_user(fold(agent.updates)) == live


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with make_house() as built:
        node = NodeConfig(built.node.name, built.node.url)
        built.control.change(nodes={node.name: node}, profiles={"m": ProfileView("m", context=CONTEXT)})
        built.node.answer = follow(EDITS, reasoning="Let me see.")
        yield built


async def test_files_are_edited_with_permission_by_clients_that_others_wrote(house: House):
    told = await asyncio.to_thread(
        live_tests, f"http://127.0.0.1:{house.port}/v1", "m", "test_scripted_model.py"
    )
    assert_passed(told)
    await house.record()
    assert {record.status for record in house.records} <= {200, 499}

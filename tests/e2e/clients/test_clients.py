"""Clients that nobody here wrote, with a scripted node or a scripted model behind the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fleet.snapshot import NodeConfig
from neuron.supervisor.torch_harness import WORKER
from tests.e2e.clients.install import HERE, npm_client, python
from tests.e2e.clients.running import TOLD, WEATHER, last_line, results, run
from tests.gateway.conftest import House, make_house
from tests.neuron.conftest import config, neuron_with
from tests.stubs.script import Call, follow
from tests.stubs.scripted_model import write_scripted_model

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]

FREEFORM = "gpt-5.5"  # a model of the agent's own catalogue that it offers its patch tool to
PATCH = "*** Begin Patch\n*** Update File: notes.txt\n@@\n-colour = red\n+colour = blue\n*** End Patch\n"


async def claude_code(house, project, home: Path) -> str:
    command = await asyncio.to_thread(npm_client, "claude")
    return await run(
        [command, "-p", "Make it blue.", "--model", "m", "--permission-mode", "acceptEdits"],
        project,
        home,
        ANTHROPIC_BASE_URL=f"http://127.0.0.1:{house.port}",
        ANTHROPIC_API_KEY="none",
        ANTHROPIC_SMALL_FAST_MODEL="m",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_AUTOUPDATER="1",
        DISABLE_ERROR_REPORTING="1",
        DISABLE_TELEMETRY="1",
    )


async def test_claude_code_reads_a_file_and_edits_it(house, project, tmp_path):
    notes = str(project / "notes.txt")
    edit = {"file_path": notes, "old_string": "red", "new_string": "blue"}
    house.node.answer = follow([("Read", {"file_path": notes}), ("Edit", edit)], reasoning="Let me see.")
    assert "All done." in await claude_code(house, project, tmp_path)
    assert (project / "notes.txt").read_text() == "colour = blue\n"
    assert "colour = red" in results(house)[0]
    await house.record(3)  # reading, editing, the last word
    assert {record.status for record in house.records} == {200}


CODEX_CONFIG = """\
model_provider = "cortex"
approval_policy = "never"
sandbox_mode = "danger-full-access"
web_search = "disabled"

[features]
apps = false
plugins = false

[model_providers.cortex]
name = "cortex"
base_url = "http://127.0.0.1:{port}/v1"
wire_api = "responses"
env_key = "CORTEX_KEY"
"""


async def codex(house, project, home: Path, catalogue: Path | None = None) -> str:
    (home / ".codex").mkdir(exist_ok=True)
    extra = f'model_catalog_json = "{catalogue}"\n' if catalogue else ""
    (home / ".codex" / "config.toml").write_text(extra + CODEX_CONFIG.format(port=house.port))
    command = await asyncio.to_thread(npm_client, "codex")
    ask = [command, "exec", "--skip-git-repo-check", "--model", "m", "Make it blue."]
    return await run(ask, project, home, CORTEX_KEY="none")


async def with_patch_tool(home: Path) -> Path:
    """A catalogue that says of our model what the agent knows of one with a freeform patch tool."""
    command = await asyncio.to_thread(npm_client, "codex")
    models = json.loads(await run([command, "debug", "models"], home, home))["models"]
    known = next(model for model in models if model["slug"] == FREEFORM)
    catalogue = home / "models.json"
    ours = known | {"slug": "m", "supports_search_tool": False}
    catalogue.write_text(json.dumps({"models": [ours]}))
    return catalogue


async def test_codex_reads_a_file_and_edits_it_with_commands(house, project, tmp_path):
    house.node.answer = follow(
        [
            ("exec_command", {"cmd": "cat notes.txt"}),
            ("exec_command", {"cmd": "sed -i s/red/blue/ notes.txt"}),
        ]
    )
    assert "All done." in await codex(house, project, tmp_path)
    assert (project / "notes.txt").read_text() == "colour = blue\n"
    assert "colour = red" in results(house)[0]
    assert house.node.requests[0].json["messages"][0]["role"] == "developer"


async def test_codex_edits_with_its_freeform_patch_tool(house, project, tmp_path):
    house.node.answer = follow(
        [("exec_command", {"cmd": "cat notes.txt"}), ("apply_patch", {"input": PATCH})]
    )
    assert "All done." in await codex(house, project, tmp_path, await with_patch_tool(tmp_path))
    assert (project / "notes.txt").read_text() == "colour = blue\n"
    assert "M notes.txt" in results(house)[1]


@asynccontextmanager
async def strict_house(directory: Path, calls: list[Call]) -> AsyncIterator[House]:
    """A gateway with a neuron, whose model wants one system message, first, and roles that take turns."""
    write_scripted_model(directory, calls)
    async with (
        neuron_with(config(device={"threads": 1}), worker=WORKER) as neuron,
        make_house(nodes=0, loaded=False) as built,
    ):
        assert (await neuron.load(directory)).status_code == 200
        built.control.change(nodes={"n": NodeConfig("n", neuron.url)})
        await built.until_routable()
        yield built


async def test_claude_code_completes_its_turn_where_roles_must_take_turns(project, tmp_path):
    notes = str(project / "notes.txt")
    edit = {"file_path": notes, "old_string": "red", "new_string": "blue"}
    async with strict_house(tmp_path / "m", [("Read", {"file_path": notes}), ("Edit", edit)]) as house:
        assert "All done." in await claude_code(house, project, tmp_path)
        assert (project / "notes.txt").read_text() == "colour = blue\n"
        await house.record(3)
        assert {record.status for record in house.records} == {200}


async def test_codex_completes_its_turn_where_roles_must_take_turns(project, tmp_path):
    commands = ["cat notes.txt", "sed -i s/red/blue/ notes.txt"]
    calls = [("exec_command", {"cmd": command}) for command in commands]
    async with strict_house(tmp_path / "m", calls) as house:
        assert "All done." in await codex(house, project, tmp_path)
        assert (project / "notes.txt").read_text() == "colour = blue\n"
        await house.record(3)
        assert {record.status for record in house.records} == {200}
        assert all("adjusted" in dict(record.notes) for record in house.records)


@pytest.mark.parametrize(
    "client",
    [
        "langchain-openai",
        "langchain-responses",
        "langchain-anthropic",
        "litellm-openai",
        "litellm-anthropic",
        "litellm-ollama",
    ],
)
async def test_a_library_calls_a_tool(house, tmp_path, client):
    house.node.answer = follow(WEATHER)
    interpreter = await asyncio.to_thread(python)
    told = await run(
        [interpreter, HERE / "scripts.py", client, f"http://127.0.0.1:{house.port}"],
        tmp_path,
        tmp_path,
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )
    assert last_line(told) == TOLD

"""JavaScript's libraries and agents, with a scripted node behind the gateway."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.e2e.clients.install import HERE, node, npm_client, npm_modules
from tests.e2e.clients.running import TOLD, WEATHER, last_line, results, run
from tests.stubs.script import follow

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]


@pytest.mark.parametrize(
    "client",
    [
        "ai-7-responses",
        "ai-7-chat",
        "ai-7-compatible",
        "ai-7-anthropic",
        "ai-6-responses",
        "ai-6-compatible",
        "langchain-js",
        "ollama-js",
    ],
)
async def test_a_library_calls_a_tool(house, tmp_path, client):
    house.node.answer = follow(WEATHER)
    program = await asyncio.to_thread(node)
    await asyncio.to_thread(npm_modules)
    script = [program, HERE / "scripts.mjs", client, f"http://127.0.0.1:{house.port}"]
    assert last_line(await run(script, tmp_path, tmp_path)) == TOLD
    await house.record(4 if client.startswith("ai") else 3)
    assert {record.status for record in house.records} == {200}


async def test_opencode_reads_a_file_and_edits_it(house, project, tmp_path):
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"http://127.0.0.1:{house.port}/v1", "apiKey": "none"},
        "models": {"m": {}},
    }
    settings = {"provider": {"cortex": provider}, "model": "cortex/m", "small_model": "cortex/m"}
    (project / "opencode.json").write_text(json.dumps(settings | {"autoupdate": False}))
    notes = str(project / "notes.txt")
    edit = {"filePath": notes, "oldString": "red", "newString": "blue"}
    house.node.answer = follow([("read", {"filePath": notes}), ("edit", edit)])
    command = await asyncio.to_thread(npm_client, "opencode")
    assert "All done." in await run([command, "run", "Make it blue."], project, tmp_path)
    assert (project / "notes.txt").read_text() == "colour = blue\n"
    assert "colour = red" in results(house)[0]

"""Clients that take long to install: `make clients`. Each is configured as docs/clients.md says."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.e2e.clients.install import OTHERS, newer_python, node, npm_client, python
from tests.e2e.clients.running import TOLD, WEATHER, last_line, results, run
from tests.stubs.script import follow

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio,
    pytest.mark.skipif("CORTEX_ALL_CLIENTS" not in os.environ, reason="`make clients` runs it"),
]

ASKED = "Make it blue."
LIBRARIES = {
    "pydantic-ai": "agents.txt",
    "openai-agents": "agents.txt",
    "haystack": "haystack.txt",
    "llama-index": "llama-index.txt",
}


def v1(house) -> str:
    return f"http://127.0.0.1:{house.port}/v1"


async def command(name: str, requirements: str, interpreter: str | None = None) -> Path:
    """A program of a Python environment of its own."""
    inside = await asyncio.to_thread(python, OTHERS / requirements, *([interpreter] if interpreter else []))
    return inside.with_name(name)


async def run_js(name: str, arguments: list[str | Path], cwd: Path, home: Path, **env: str) -> str:
    """What a program of Node's printed, on a Node that is new enough for it."""
    newer = await asyncio.to_thread(node)
    path = f"{newer.parent}:{os.environ['PATH']}"
    return await run(
        [await asyncio.to_thread(npm_client, name, OTHERS), *arguments], cwd, home, PATH=path, **env
    )


def is_blue(house, project: Path, *, read: bool = True) -> None:
    """The project's file was edited, after the client's model had read it."""
    assert (project / "notes.txt").read_text() == "colour = blue\n"
    assert not read or "colour = red" in results(house)[0]
    assert {record.status for record in house.records} == {200}


@pytest.mark.parametrize("client", LIBRARIES)
async def test_a_library_calls_a_tool(house, tmp_path, client):
    house.node.answer = follow(WEATHER)
    interpreter = await command("python", LIBRARIES[client])
    script = [interpreter, OTHERS / "libraries.py", client, f"http://127.0.0.1:{house.port}"]
    assert last_line(await run(script, tmp_path, tmp_path)) == TOLD


async def test_dspy_reads_its_own_notation(house, tmp_path):
    house.node.answer = follow([], "[[ ## answer ## ]]\n12 degrees\n\n[[ ## completed ## ]]")
    interpreter = await command("python", "dspy.txt")
    script = [interpreter, OTHERS / "libraries.py", "dspy", f"http://127.0.0.1:{house.port}"]
    assert last_line(await run(script, tmp_path, tmp_path)) == {"text": "12 degrees"}


async def test_llm_calls_a_tool(house, tmp_path):
    models = f"- model_id: cortex\n  model_name: m\n  api_base: {v1(house)}\n  supports_tools: true\n"
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    house.node.answer = follow(WEATHER)
    tool = "def get_weather(city: str) -> str:\n    return '12 degrees in ' + city"
    ask = [await command("llm", "llm.txt"), "-m", "cortex", "--key", "none", "--functions", tool]
    told = await run([*ask, "What is the weather in Oslo?"], tmp_path, tmp_path, LLM_USER_PATH=str(tmp_path))
    assert (told.strip(), results(house)) == ("All done.", ["12 degrees in Oslo"])


async def test_promptfoo_evaluates_every_dialect(house, tmp_path):
    config = {"apiBaseUrl": v1(house), "apiKey": "none"}
    providers = [
        {"id": "openai:chat:m", "config": config},
        {"id": "openai:responses:m", "config": config},
        {"id": "anthropic:messages:m", "config": config | {"apiBaseUrl": v1(house).removesuffix("/v1")}},
        {"id": "ollama:chat:m"},
    ]
    expected = [{"vars": {"city": "Oslo"}, "assert": [{"type": "equals", "value": "All done."}]}]
    settings = {"prompts": ["The weather in {{city}}?"], "providers": providers, "tests": expected}
    (tmp_path / "promptfooconfig.json").write_text(json.dumps(settings))
    house.node.answer = follow([])
    await run_js(
        "promptfoo",
        ["eval", "--no-cache", "--no-progress-bar", "-o", "out.json"],
        tmp_path,
        tmp_path,
        OLLAMA_BASE_URL=v1(house).removesuffix("/v1"),
        PROMPTFOO_CONFIG_DIR=str(tmp_path / "state"),
        PROMPTFOO_DISABLE_TELEMETRY="1",
        PROMPTFOO_DISABLE_UPDATE="1",
    )
    stats = json.loads((tmp_path / "out.json").read_text())["results"]["stats"]
    assert (stats["successes"], stats["failures"], stats["errors"]) == (4, 0, 0)


async def test_aider_edits_a_file(house, project, tmp_path):
    block = "<<<<<<< SEARCH\ncolour = red\n=======\ncolour = blue\n>>>>>>> REPLACE\n"
    house.node.answer = follow([], f"notes.txt\n```\n{block}```\n")
    switches = "--no-git --yes-always --no-check-update --analytics-disable --no-show-model-warnings"
    ask = [await command("aider", "aider.txt"), "--model", "openai/m", "--edit-format", "diff"]
    ask += [*switches.split(), "--message", ASKED, "notes.txt"]
    await run(ask, project, tmp_path, OPENAI_API_BASE=v1(house), OPENAI_API_KEY="none")
    is_blue(house, project, read=False)


async def test_mistral_vibe_edits_a_file(house, project, tmp_path):
    config = f"""\
active_model = "m"
enable_telemetry = false
enable_update_checks = false

[[providers]]
name = "cortex"
api_base = "{v1(house)}"
api_key_env_var = "CORTEX_KEY"

[[models]]
name = "m"
provider = "cortex"
alias = "m"
"""
    (tmp_path / "config.toml").write_text(config)
    edit = {"file_path": "notes.txt", "old_string": "red", "new_string": "blue"}
    house.node.answer = follow([("read_file", {"path": "notes.txt"}), ("edit", edit)])
    vibe = await command("vibe", "mistral-vibe.txt", await asyncio.to_thread(newer_python))
    ask = [vibe, "--trust", "--auto-approve", "-p", ASKED]
    await run(ask, project, tmp_path, VIBE_HOME=str(tmp_path), CORTEX_KEY="none")
    is_blue(house, project)


async def test_pi_edits_a_file(house, project, tmp_path):
    provider = {"baseUrl": v1(house), "api": "openai-completions", "apiKey": "$CORTEX_KEY"}
    agent = tmp_path / ".pi" / "agent"
    agent.mkdir(parents=True)
    settings = {"providers": {"cortex": provider | {"models": [{"id": "m"}]}}}
    (agent / "models.json").write_text(json.dumps(settings))
    edit = {"path": "notes.txt", "edits": [{"oldText": "red", "newText": "blue"}]}
    house.node.answer = follow([("read", {"path": "notes.txt"}), ("edit", edit)])
    ask = ["-p", "--provider", "cortex", "--model", "m", ASKED]
    await run_js("pi", ask, project, tmp_path, CORTEX_KEY="none")
    is_blue(house, project)


async def test_qwen_code_edits_a_file(house, project, tmp_path):
    notes = str(project / "notes.txt")
    edit = {"file_path": notes, "old_string": "red", "new_string": "blue"}
    house.node.answer = follow([("read_file", {"file_path": notes}), ("edit", edit)])
    ask = ["--auth-type", "openai", "--approval-mode", "yolo", ASKED]
    env = {"OPENAI_BASE_URL": v1(house), "OPENAI_API_KEY": "none", "OPENAI_MODEL": "m"}
    await run_js("qwen", ask, project, tmp_path, **env)
    is_blue(house, project)


async def test_continue_edits_a_file(house, project, tmp_path):
    model = {"name": "m", "provider": "openai", "model": "m", "apiBase": v1(house), "apiKey": "none"}
    model |= {"roles": ["chat", "edit"], "capabilities": ["tool_use"]}
    settings = {"name": "cortex", "version": "0.0.1", "schema": "v1", "models": [model]}
    (tmp_path / "config.yaml").write_text(json.dumps(settings))
    notes = str(project / "notes.txt")
    edit = {"file_path": notes, "old_string": "red", "new_string": "blue"}
    house.node.answer = follow([("Read", {"filepath": notes}), ("Edit", edit)])
    ask = ["-p", "--auto", "--config", tmp_path / "config.yaml", ASKED]
    await run_js("cn", ask, project, tmp_path, CONTINUE_TELEMETRY_ENABLED="0")
    is_blue(house, project)


async def test_cline_edits_a_file(house, project, tmp_path):
    notes = str(project / "notes.txt")
    edit = {"path": notes, "old_text": "red", "new_text": "blue"}
    house.node.answer = follow([("read_files", {"files": [{"path": notes}]}), ("editor", edit)])
    sign_in = ["auth", "-p", "openai-compatible", "-k", "none", "-b", v1(house), "-m", "m"]
    await run_js("cline", sign_in, project, tmp_path)
    await run_js("cline", ["-P", "openai-compatible", "-m", "m", ASKED], project, tmp_path)
    is_blue(house, project)

"""Schemas and grammars are checked in the sandbox, and what that says reaches the client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.neuron.conftest import Neuron, config, neuron_with, until
from tests.stubs import stand_in_calls as calls

PLACE = "neuron.api.prompts.checks"


@contextlib.asynccontextmanager
async def neuron_with_sandbox(model_dir: Path, **values: Any) -> AsyncIterator[Neuron]:
    settings = {"processes": 1, "cpu_s": 1, "memory_mb": 256, "max_waiting": 1} | values
    async with neuron_with(config(sandbox=settings)) as neuron:
        assert (await neuron.load(model_dir)).status_code == 200
        yield neuron


@pytest_asyncio.fixture
async def neuron(model_dir: Path) -> AsyncIterator[Neuron]:
    async with neuron_with_sandbox(model_dir) as running:
        yield running


def guided(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def strict(schema: Any, **more: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema, **more}}]}


OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("runaway", "limit"), [(calls.spin, "1 s of CPU time"), (calls.allocate, "256 MiB of memory")]
)
async def test_a_schema_that_takes_too_much_is_refused_with_the_limit(neuron, monkeypatch, runaway, limit):
    monkeypatch.setattr(f"{PLACE}.check_schema", runaway)
    for body, param in (
        (guided(OBJECT), "response_format.json_schema.schema"),
        (strict(OBJECT, strict=True), "tools[0].function.parameters"),
    ):
        answer = await neuron.chat("echo no", **body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_schema", param)
        assert limit in error["message"]


async def test_a_grammar_that_takes_too_much_is_refused_with_the_limit(neuron, monkeypatch):
    monkeypatch.setattr(f"{PLACE}.grammar_problem", calls.allocate)
    answer = await neuron.chat("echo no", stream=True, response_format={"type": "json_object"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_grammar", "response_format")
    assert "256 MiB of memory" in error["message"]


@pytest.mark.parametrize("check", ["check_schema", "grammar_problem"])
async def test_a_tool_that_is_not_strict_is_offered_without_its_schema(neuron, monkeypatch, check):
    monkeypatch.setattr(f"{PLACE}.{check}", calls.only_strings_take_too_much)
    answer = await neuron.chat("sampling", tool_choice="required", **strict(OBJECT))
    assert answer.status_code == 200
    assert '"type": "string"' not in answer.text


async def held(neuron: Neuron, place: Path, principal: str) -> asyncio.Task[int]:
    """A call that has begun and goes on until the gate in `place` exists."""
    started = place / "started"
    call = neuron.daemon.sandbox.run(principal, calls.wait_for, str(place / "gate"), str(started))
    task = asyncio.create_task(call)

    async def exists() -> bool:
        return started.exists()

    await until(exists)
    return task


async def test_others_go_on_while_a_check_takes_its_time(neuron, tmp_path):
    task = await held(neuron, tmp_path, "slow")
    waiting = asyncio.create_task(neuron.chat("echo later", **guided(OBJECT)))
    assert (await neuron.stream("count 20"))[-1] == "[DONE]"
    assert (await neuron.http.get("/health")).json()["status"] == "ok"
    assert not waiting.done()
    (tmp_path / "gate").touch()
    assert (await waiting).json()["choices"][0]["message"]["content"] == "later"
    assert await task


async def test_a_full_sandbox_is_503_with_a_time_and_never_a_400(neuron, tmp_path):
    task = await held(neuron, tmp_path, "")
    waiting = asyncio.create_task(neuron.daemon.sandbox.run("", calls.pid))
    answer = await neuron.chat("echo no", **guided(OBJECT))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "sandbox_full")
    assert int(answer.headers["retry-after"]) > 0
    assert (await neuron.chat("echo yes")).status_code == 200  # who is not guided needs no check
    (tmp_path / "gate").touch()
    await asyncio.gather(task, waiting)
    assert (await neuron.chat("echo yes", **guided(OBJECT))).status_code == 200


async def test_a_check_whose_processes_are_killed_is_503(neuron, monkeypatch):
    monkeypatch.setattr(f"{PLACE}.check_schema", calls.fall)
    answer = await neuron.chat("echo no", **guided(OBJECT))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "sandbox_failed")
    assert answer.headers["retry-after"]


async def test_what_was_checked_needs_no_process_again(neuron, tmp_path):
    assert (await neuron.chat("echo once", **guided(OBJECT))).status_code == 200
    task = await held(neuron, tmp_path, "")
    assert (await neuron.chat("echo twice", **guided(OBJECT))).status_code == 200
    (tmp_path / "gate").touch()
    await task


async def test_a_client_that_leaves_takes_its_check_along(neuron, tmp_path):
    task = await held(neuron, tmp_path, "")
    leaving = asyncio.create_task(neuron.chat("echo no", **guided(OBJECT)))

    async def is_full() -> bool:
        probe = asyncio.create_task(neuron.daemon.sandbox.run("", calls.pid))
        await asyncio.sleep(0)
        is_refused = probe.done() and probe.exception() is not None
        probe.cancel()
        await asyncio.wait([probe])
        return is_refused

    async def has_room() -> bool:
        return not await is_full()

    await until(is_full)
    leaving.cancel()
    await until(has_room)
    (tmp_path / "gate").touch()
    await task

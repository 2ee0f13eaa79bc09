"""The commands that steer a fleet, on a real one."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import TINY

pytestmark = pytest.mark.e2e


def told(stack, *arguments: str) -> str:
    done = stack.cortex(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def status(stack) -> dict:
    return json.loads(told(stack, "status", "--json"))["nodes"][0]


def loaded(stack) -> list[str]:
    return [row["model"] for row in status(stack)["placements"] if row["state"] == "loaded"]


def test_a_model_goes_and_comes(stack):
    told(stack, "load", TINY)
    assert told(stack, "unload", TINY).endswith(f"unload of {TINY} on local succeeded: unloaded from local\n")
    assert loaded(stack) == []
    assert "succeeded: loaded on local" in told(stack, "load", TINY, "--node", "local", "--reason", "a test")
    assert loaded(stack) == [TINY]


def test_a_node_is_drained_and_taken_back(stack):
    told(stack, "load", TINY)
    assert "drain of local succeeded" in told(stack, "drain", "local")
    node = status(stack)
    assert (node["cordoned"], loaded(stack)) == (True, [])
    assert told(stack, "uncordon", "local") == "models may be loaded on local again\n"
    told(stack, "load", TINY)
    assert loaded(stack) == [TINY]


def test_a_device_gets_a_new_worker_and_its_models_back(stack):
    told(stack, "load", TINY)
    before = status(stack)["devices"][0]["pid"]
    assert "defrag of local:0 succeeded" in told(stack, "defrag", "local")
    stack.eventually(lambda: status(stack)["devices"][0]["pid"] not in {None, before})
    stack.eventually(lambda: loaded(stack) == [TINY])
    assert "13131" in stack.chat("Which port does neuron listen on?").text


def test_what_is_refused_is_one_line(stack):
    for command in (("load", "nope"), ("drain", "nope"), ("pin", "nope"), ("ops", "999999")):
        done = stack.cortex(*command)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
        assert done.stderr.startswith("cortex: ")


def test_every_decision_is_listed(stack):
    operations = json.loads(told(stack, "ops", "--json", "--limit", "500"))["operations"]
    assert {"load", "unload", "drain", "defrag"} <= {operation["kind"] for operation in operations}
    assert any(operation["reason"] == "a test" for operation in operations)

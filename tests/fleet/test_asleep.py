"""Evicted models sleep in host memory: who sends them there, who wakes them, and where."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import override_settings
from django.utils import timezone

from fleet.models import ModelProfile, Operation, Placement
from fleet.operations import OperationState
from fleet.services import idle, lifecycle, polling
from fleet.services.operations import rows
from tests.fleet.test_execution import ask


def holds_one(fleet, name="a", *, max_asleep=2, devices=(2000,)):
    node = fleet.node(name, devices=list(devices))
    node.sizes = dict.fromkeys(("m", "n"), 1500)
    node.max_asleep = max_asleep
    return node


@pytest.fixture
def swapping(fleet):
    """A node that holds `m` or `n`, and has `m`."""
    node = holds_one(fleet)
    for model in ("m", "n"):
        fleet.model(model, vram_mb=1500)
    assert fleet.run(ask("m")).state == "succeeded"
    return node


def test_an_evicted_model_falls_asleep_and_wakes(fleet, swapping):
    assert fleet.run(ask("n")).state == "succeeded"
    assert fleet.states() == {"m@a": "asleep", "n@a": "loaded"}
    assert Placement.objects.get(model="m").host_mb == 1500
    row = fleet.run(ask("m"))
    assert row.explanation[0]["message"] == "asleep there, 500 MiB free, evicting n"
    assert fleet.states() == {"m@a": "loaded", "n@a": "asleep"}


def test_a_node_without_room_has_it_on_disk(fleet, swapping):
    swapping.max_asleep = 0
    fleet.run(ask("n"))
    assert fleet.states() == {"m@a": "unloaded", "n@a": "loaded"}


def test_the_node_reads_the_files_while_the_victim_leaves(fleet, swapping):
    fleet.run(ask("n"))
    asked = swapping.asked[-3:]
    assert asked == [("/models/read-ahead", "n"), ("/models/unload", "m"), ("/models/load", "n")]


def test_a_neuron_that_cannot_read_ahead_is_asked_to_load_all_the_same(fleet, swapping):
    swapping.refusals["/models/read-ahead"] = 404
    assert fleet.run(ask("n")).state == "succeeded"


def test_a_model_is_loaded_where_it_is_asleep(fleet, swapping):
    fleet.run(ask("n"))
    fleet.node("b", devices=[2000]).max_asleep = 2
    fleet.run(lifecycle.unload("n", "a", requested_by="test").id)
    assert fleet.run(ask("m")).node == "a"


def test_on_the_device_that_it_had(fleet):
    node = holds_one(fleet, devices=(2000, 2500))
    fleet.model("m", vram_mb=1500)
    node.has("m", state="asleep", devices=[0])
    polling.poll()
    assert fleet.run(ask("m")).state == "succeeded"
    assert node.models["m"].devices == [0]


def test_an_operator_who_unloads_means_it(fleet, swapping):
    fleet.run(lifecycle.unload("m", "a", requested_by="test").id)
    assert fleet.states() == {"m@a": "unloaded"}


def test_what_is_asleep_can_be_unloaded(fleet, swapping):
    fleet.run(ask("n"))
    assert fleet.run(lifecycle.unload("m", "a", requested_by="test").id).state == "succeeded"
    assert fleet.states() == {"m@a": "unloaded", "n@a": "loaded"}


def test_an_idle_model_falls_asleep(fleet, swapping):
    ModelProfile.objects.filter(model_id="m").update(ttl_s=10)
    long_ago = timezone.now() - timedelta(seconds=60)
    Placement.objects.update(changed_at=long_ago, last_used_at=long_ago)
    assert idle.unload_idle() == 1
    fleet.run(Operation.objects.latest("pk").pk)
    assert fleet.states() == {"m@a": "asleep"}


@pytest.mark.parametrize(("strategy", "priority"), [("lru", 0), ("priority", 7)])
def test_one_policy_evicts_and_drops(fleet, swapping, strategy, priority):
    ModelProfile.objects.filter(model_id="m").update(residency_priority=7)
    with override_settings(EVICTION_STRATEGY=strategy):
        fleet.run(ask("n"))
    assert swapping.kept == {"m": priority}


def test_the_expected_wait_is_that_of_waking(fleet, swapping, until):
    fleet.run(ask("n"))
    assert left(fleet, swapping, until, "m") <= 2
    fleet.run(lifecycle.unload("m", "a", requested_by="test").id)
    assert 2 < left(fleet, swapping, until, "m") <= 40  # from disk


def left(fleet, node, until, model):
    operation = ask(model)
    with node.hold("/models/load"):
        loading = fleet.start(operation)
        until(lambda: node.models.get(model) and node.models[model].state == "loading")
        polling.poll()
        row = Operation.objects.get(pk=operation)
        assert row.state == OperationState.RUNNING
        found = rows.remaining_s(row)
    loading.join()
    return found

from __future__ import annotations

from fleet.models import Device, Operation
from fleet.services import lifecycle, polling
from fleet.services.operations import execution
from neuron.wire import ApiError
from tests.fleet.test_execution import ask, claimed


def test_an_unload_frees_the_memory(fleet):
    node = fleet.node("a")
    node.has("m")
    polling.poll()
    row = fleet.run(lifecycle.unload("m", "a").id)
    assert (row.state, row.message) == ("succeeded", "unloaded from a")
    assert node.models == {}
    assert fleet.states() == {"m@a": "unloaded"}
    assert Device.objects.get().memory_free_mb == 8000


def test_an_unload_of_a_model_that_is_gone_succeeds(fleet):
    node = fleet.node("a")
    node.has("m")
    polling.poll()
    node.models.clear()
    assert fleet.run(lifecycle.unload("m", "a").id).state == "succeeded"
    assert fleet.states() == {"m@a": "unloaded"}


def test_an_unload_that_the_node_refuses_fails_in_its_words(fleet):
    node = fleet.node("a")
    node.has("m")
    polling.poll()
    node.failures["unload m"] = ApiError(500, "device_poisoned", "restart me")
    row = fleet.run(lifecycle.unload("m", "a").id)
    assert (row.state, row.error_code, row.message) == ("failed", "device_poisoned", "restart me")
    polling.poll()
    assert fleet.states() == {"m@a": "loaded"}


def test_an_unload_that_is_postponed_keeps_its_node(fleet):
    fleet.node("a").has("m")
    polling.poll()
    operation = lifecycle.unload("m", "a").id
    Device.objects.update(claimed_by=Operation.objects.create(kind="load", model="other", state="running"))
    execution.run_operation(operation)
    view = lifecycle.operation(operation)
    assert (view.state, view.message) == ("pending", "waits for another operation on its device")
    assert view.subject == "unload of m on a"


def test_an_eviction_that_the_node_refuses_keeps_its_reason(fleet):
    node = fleet.node("a", devices=[2000])
    node.sizes = {"old": 1500, "m": 1800}
    node.has("old")
    polling.poll()
    fleet.model(vram_mb=1800)
    node.failures["unload old"] = ApiError(500, "device_poisoned", "restart me")
    assert fleet.run(ask()).state == "failed"
    eviction = Operation.objects.get(kind="evict")
    assert (eviction.state, eviction.error_code, eviction.message) == (
        "failed",
        "device_poisoned",
        "restart me",
    )


def test_an_idle_unload_gives_way_to_a_request(fleet):
    node = fleet.node("a")
    node.has("m")
    polling.poll()
    operation = lifecycle.unload("m", "a", unless_busy=True).id
    node.busy["m"] = 1
    row = fleet.run(operation)
    assert (row.state, row.message) == ("cancelled", "in use again")
    assert "m" in node.models
    assert claimed() == 0


def test_a_model_that_is_just_leaving_is_loaded_again_when_it_has_left(fleet):
    fake = fleet.node("a")
    fleet.model("m")
    fake.has("m", state="unloading")
    operation = lifecycle.ensure_loaded("m", requested_by="gateway")
    execution.run_operation(operation.id)
    row = Operation.objects.get()
    assert (row.state, row.message) == ("pending", "a: the model is on its way in or out there")
    fake.models.clear()
    assert fleet.run(operation.id).state == "succeeded"
    assert fake.loads("m") == 1

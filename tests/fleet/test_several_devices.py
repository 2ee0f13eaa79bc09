"""Models on several devices of a node: placed, measured by device, evicted and restarted whole."""

from __future__ import annotations

from fleet.models import Device, ModelProfile, Operation, Placement
from fleet.services import lifecycle, polling, settings_warnings
from fleet.services.operations import execution
from neuron.wire import ApiError
from tests.fleet.test_execution import ask, claimed


def free(node="a"):
    rows = Device.objects.filter(node__name=node).order_by("index")
    return list(rows.values_list("memory_free_mb", flat=True))


def test_a_model_that_its_profile_splits_is_measured_on_each_device(fleet):
    node = fleet.node("a", devices=[8000, 8000, 8000])
    node.shares["m"] = [3000, 2500]
    fleet.model(vram_mb=4000, tensor_parallel=2)
    row = fleet.run(ask())
    assert row.state == "succeeded"
    assert row.explanation[0]["message"] == "16000 MiB free on 2 devices"
    assert (node.specs["m"].devices, node.specs["m"].tensor_parallel) == ([0, 1], 2)
    placement = Placement.objects.get()
    assert (placement.memory_mb, placement.memory_by_device) == (5500, {0: 3000, 1: 2500})
    assert free() == [5000, 5500, 8000]


def test_a_model_that_fits_no_device_is_split_by_itself_also_when_only_a_load_shows_it(fleet):
    node = fleet.node("a", devices=[8000, 8000])
    node.sizes["m"] = 12_000
    fleet.model()  # nothing is known of its size
    row = fleet.run(ask())
    assert (row.state, node.specs["m"].devices) == ("succeeded", [0, 1])
    assert [entry["code"] for entry in row.failed_nodes] == ["insufficient_memory"]
    assert ModelProfile.objects.get().needed_mb == 12_000
    assert free() == [2000, 2000]


def test_it_leaves_whole_for_a_model_that_needs_one_of_its_devices(fleet):
    node = fleet.node("a", devices=[8000, 8000])
    node.has("pair", devices=[0, 1])
    node.sizes.update({"m": 7500, "pair": 2000})
    node.has("pair", devices=[0, 1])
    polling.poll()
    fleet.model("pair", vram_mb=2000, tensor_parallel=2)
    fleet.model("m", vram_mb=7500)
    operation = ask()
    with node.hold("/models/unload"):
        loading = fleet.start(operation)
        while claimed() < 2:
            pass
    loading.join()
    assert Operation.objects.get(pk=operation).state == "succeeded"
    assert list(node.models) == ["m"]
    assert claimed() == 0


def test_another_load_waits_for_all_devices_of_one_that_is_under_way(fleet):
    node = fleet.node("a", devices=[8000, 8000])
    fleet.model("pair", vram_mb=10_000, tensor_parallel=2)
    fleet.model("m", vram_mb=1000)
    first = ask("pair")
    with node.hold("/models/load"):
        loading = fleet.start(first)
        while node.loads("pair") == 0:
            pass
        second = ask("m")
        execution.run_operation(second)
        assert lifecycle.operation(second).state == "pending"
    loading.join()
    assert fleet.run(second).state == "succeeded"


def test_a_restart_takes_all_devices_of_the_models_that_it_reloads(fleet):
    node = fleet.node("a", devices=[8000, 8000, 8000])
    node.has("pair", devices=[0, 1])
    polling.poll()
    operation = lifecycle.restart("a", 0, requested_by="test").id
    with node.hold("/devices/0/restart"):
        restarting = fleet.start(operation)
        while claimed() == 0:
            pass
        taken = set(Device.objects.exclude(claimed_by=None).values_list("index", flat=True))
    restarting.join()
    assert (taken, Operation.objects.get(pk=operation).state) == ({0, 1}, "succeeded")


def test_a_failed_split_is_asked_for_more_than_its_smallest_device_had(fleet):
    node = fleet.node("a", devices=[8000, 8000, 8000, 8000])
    node.sizes["m"] = 20_000
    fleet.model(vram_mb=12_000)
    row = fleet.run(ask())
    assert (row.state, node.specs["m"].devices) == ("succeeded", [0, 1, 2, 3])
    assert row.failed_nodes[0]["free_mb"] == 16_000


def test_a_model_that_cannot_be_split_is_tried_nowhere_else(fleet):
    for name in ("a", "b"):
        node = fleet.node(name, devices=[8000, 8000])
        node.failures["m"] = ApiError(422, "model_unsupported", "num_attention_heads is 3")
    fleet.model(tensor_parallel=2)
    row = fleet.run(ask())
    assert (row.state, row.error_code, len(row.failed_nodes)) == ("failed", "model_unsupported", 1)


def test_a_managed_engine_is_told_its_options_and_its_share_of_the_memory(fleet):
    node = fleet.node("a", devices=[8000, 8000], harnesses=["torch", "vllm"])
    fleet.model(harness="vllm", tensor_parallel=2, vram_mb=9000, options={"max-model-len": 4096})
    assert fleet.run(ask()).state == "succeeded"
    spec = node.specs["m"]
    assert (spec.harness, spec.memory_mb, spec.options) == ("vllm", 4500, {"max-model-len": 4096})


def test_the_catalogues_page_names_a_split_that_heads_do_not_allow(fleet, tmp_path):
    (tmp_path / "config.json").write_text('{"num_attention_heads": 6, "num_key_value_heads": 2}')
    fleet.node("a", devices=[8000] * 4)
    fleet.model(source=str(tmp_path), tensor_parallel=4)
    [found] = [line for line in settings_warnings.found() if "tensor_parallel" in line]
    assert "num_attention_heads is 6" in found
    assert "use one of 1, 2" in found

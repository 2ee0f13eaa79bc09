from __future__ import annotations

from django.test import override_settings
from prometheus_client import REGISTRY

from fleet.models import Device, ModelProfile, Node, Placement
from fleet.services import lifecycle, polling
from fleet.services.operations import execution
from fleet.services.operations.specs import spec_of
from neuron.wire import ApiError


def ask(model="m", node=None):
    return lifecycle.load(model, node, requested_by="test").id


def claimed():
    return Device.objects.exclude(claimed_by=None).count()


def test_a_load_places_loads_and_remembers_what_it_took(fleet):
    node = fleet.node("a", devices=[8000])
    fleet.model(vram_mb=500)
    row = fleet.run(ask())
    assert (row.state, row.node, row.message) == ("succeeded", "a", "loaded on a")
    assert row.explanation == [{"node": "a", "outlook": "fits", "message": "8000 MiB free"}]
    assert row.started_at <= row.finished_at
    assert row.lease is None
    assert row.progress is None
    assert node.loads("m") == 1
    assert fleet.states() == {"m@a": "loaded"}
    assert ModelProfile.objects.get().measured_mb == 1000
    assert Placement.objects.get().memory_mb == 1000
    assert Device.objects.get().memory_free_mb == 7000
    assert claimed() == 0


def test_the_next_load_asks_for_what_the_first_one_measured(fleet):
    """Neither for the estimate, nor for caches that grew into the room there was."""
    node = fleet.node("a", devices=[8000])
    node.sizes, node.needs = {"m": 6000}, {"m": 1500}
    fleet.node("b", devices=[2000])
    profile = fleet.model(vram_mb=5000)
    assert fleet.run(ask()).node == "a"
    profile.refresh_from_db()
    assert (profile.measured_mb, profile.needed_mb) == (6000, 1500)
    assert fleet.run(ask(node="b")).state == "succeeded"


def test_other_weights_forget_what_was_measured(fleet):
    fleet.node("a")
    profile = fleet.model(vram_mb=500)
    fleet.run(ask())
    profile.refresh_from_db()
    profile.save()
    assert profile.needed_mb == 1000
    profile.quant = "int4"
    profile.save()
    assert (profile.needed_mb, profile.measured_mb) == (None, None)


def test_a_placement_says_how_its_weights_are_stored(fleet):
    fleet.node("a")
    fleet.model(quant="q4_k")
    fleet.run(ask())
    placement = Placement.objects.get()
    assert (placement.format, placement.bits_per_weight, placement.weights) == ("q4_k", 4.5, "q4_k 4.5")


def test_a_model_goes_where_its_labels_are(fleet):
    fleet.node("a")
    fleet.node("b", labels=["a100"])
    fleet.model(labels=["a100"])
    assert fleet.run(ask()).node == "b"


def test_the_spec_names_source_and_devices(fleet):
    node = fleet.node("a", devices=[1000, 8000])
    fleet.model(source="/models/m", vram_mb=4000)
    fleet.run(ask())
    assert node.models["m"].source == "/models/m"
    assert node.models["m"].devices == [1]


def test_what_is_cached_as_goes_to_the_node(fleet):
    node = fleet.node("a")
    profile = fleet.model(kv_dtype="fp8")
    fleet.run(ask())
    assert node.models["m"].kv_dtype == "fp8"
    profile.refresh_from_db()
    profile.kv_dtype = "auto"
    profile.save()
    assert profile.measured_mb is None, "another cache takes other memory"


def test_a_draft_model_of_the_catalogue_goes_to_the_node(fleet):
    fleet.node("a")
    profile = fleet.model(speculation="someone/a-smaller-model-of-the-same-vocabulary")
    fleet.run(ask())
    assert spec_of(Placement.objects.get()).speculation == profile.speculation
    profile.refresh_from_db()
    assert profile.measured_mb
    profile.speculation = "mtp"
    profile.save()
    assert profile.measured_mb is None, "another draft takes other memory"


def test_template_and_formats_go_to_the_node_and_what_it_found_comes_back(fleet):
    fleet.node("a")
    formats = {"chat_template": "mine.jinja", "tool_format": "hermes", "reasoning_format": "<think>"}
    fleet.model(**formats)
    fleet.run(ask())
    assert Placement.objects.get().text == formats


def test_progress_is_shown_while_it_loads(fleet, until):
    node = fleet.node("a")
    fleet.model()
    operation = ask()
    with node.hold("/models/load"):
        thread = fleet.start(operation)
        until(lambda: lifecycle.operation(operation).progress == 0.5)
        view = lifecycle.operation(operation)
        assert (view.state, view.node, view.message) == ("running", "a", "loading on a")
        assert claimed() == 1
    thread.join()
    assert lifecycle.operation(operation).state == "succeeded"


def test_room_is_made_by_evicting_and_recorded(fleet):
    node = fleet.node("a", devices=[2000])
    node.sizes = {"old": 1500, "m": 1800}
    node.has("old")
    polling.poll()
    fleet.model(vram_mb=1800)
    row = fleet.run(ask())
    assert row.state == "succeeded"
    assert node.asked == [("/models/read-ahead", "m"), ("/models/unload", "old"), ("/models/load", "m")]
    assert REGISTRY.get_sample_value("cortex_evictions_total", {"model": "old", "node": "a"})
    assert REGISTRY.get_sample_value("cortex_eviction_wait_seconds_count", {"model": "m", "node": "a"})
    eviction = row.children.get()
    assert (eviction.kind, eviction.model, eviction.state) == ("evict", "old", "succeeded")
    assert eviction.reason == f"makes room for m (#{row.pk})"
    assert fleet.states() == {"old@a": "unloaded", "m@a": "loaded"}


def test_memory_that_does_not_come_back_fails_the_load_before_it_begins(fleet):
    node = fleet.node("a", devices=[2000])
    node.sizes = {"old": 1500, "m": 1800}
    node.has("old")
    polling.poll()
    fleet.model(vram_mb=1800)
    unload = node._unload

    async def unload_and_leak(model, leave):
        await unload(model, leave)
        node.leak_mb = 400

    node._unload = unload_and_leak
    with override_settings(MEMORY_WAIT_S=0):
        row = fleet.run(ask())
    assert (row.state, row.error_code) == ("failed", "memory_not_returned")
    assert node.loads("m") == 0


def test_a_busy_model_is_never_evicted_and_the_load_waits_for_it(fleet):
    node = fleet.node("a", devices=[2000])
    node.sizes = {"old": 1500, "m": 1800}
    node.has("old")
    node.busy["old"] = 1
    polling.poll()
    fleet.model(vram_mb=1800)
    operation = ask()
    execution.run_operation(operation)
    view = lifecycle.operation(operation)
    assert view.state == "pending"
    assert view.message == "a: waits for models that are in use or have just been loaded"
    assert claimed() == 0
    node.busy.clear()
    assert fleet.run(operation).state == "succeeded"
    assert "old" not in node.models


def test_a_load_waits_for_room_for_a_bounded_time(fleet):
    node = fleet.node("a", devices=[2000])
    node.sizes = {"old": 1500}
    node.has("old")
    node.busy["old"] = 1
    polling.poll()
    fleet.model(vram_mb=1800)
    with override_settings(CAPACITY_WAIT_S=0):
        row = fleet.run(ask())
    assert (row.state, row.error_code) == ("failed", "no_capacity")
    assert "old" in node.models


def test_a_pinned_model_keeps_its_place(fleet):
    node = fleet.node("a", devices=[2000])
    node.sizes = {"old": 1500}
    node.has("old")
    polling.poll()
    fleet.model("old", pinned=True)
    fleet.model(vram_mb=1800)
    row = fleet.run(ask())
    assert (row.state, row.error_code) == ("failed", "no_node_fits")
    assert row.message == "a: needs 1800 MiB per device; 500 MiB are free, nothing else may be evicted"
    assert node.asked == []


def test_a_model_of_unknown_size_gets_more_room_until_it_fits(fleet):
    node = fleet.node("a", devices=[3000])
    node.sizes = {"m": 2500}
    node.has("one", "two")
    polling.poll()
    fleet.model()
    row = fleet.run(ask())
    assert (row.state, row.node) == ("succeeded", "a")
    assert node.loads("m") == 3
    assert list(node.models) == ["m"]
    assert {child.model for child in row.children.all()} == {"one", "two"}


def test_a_model_larger_than_every_device_is_refused(fleet):
    node = fleet.node("a", devices=[3000])
    node.sizes = {"m": 5000}
    node.has("one")
    polling.poll()
    fleet.model()
    row = fleet.run(ask())
    assert (row.state, row.error_code, row.message) == ("failed", "insufficient_memory", "m does not fit.")
    assert node.loads("m") == 2


def test_a_node_that_fails_is_followed_by_the_next(fleet):
    first, second = fleet.node("a", devices=[9000]), fleet.node("b")
    first.failures["m"] = ApiError(422, "model_broken", "weights.safetensors: cut short")
    fleet.model()
    row = fleet.run(ask())
    assert (row.state, row.node) == ("succeeded", "b")
    assert row.failed_nodes[0]["message"] == "weights.safetensors: cut short"
    assert (first.loads("m"), second.loads("m")) == (1, 1)
    assert fleet.states() == {"m@a": "failed", "m@b": "loaded"}
    assert claimed() == 0


def test_the_last_reason_is_the_nodes_own_word_for_word(fleet):
    node = fleet.node("a")
    node.failures["m"] = ApiError(422, "model_broken", "config.json: Expecting value: line 1 column 2")
    fleet.model()
    row = fleet.run(ask())
    assert (row.state, row.error_code) == ("failed", "model_broken")
    assert row.message == "config.json: Expecting value: line 1 column 2"
    placement = Placement.objects.get()
    assert (placement.state, placement.error_code) == ("failed", "model_broken")


def test_a_model_that_no_node_supports_is_tried_on_one(fleet):
    nodes = [fleet.node("a"), fleet.node("b")]
    for node in nodes:
        node.failures["m"] = ApiError(422, "model_unsupported", "no such architecture")
    fleet.model()
    assert fleet.run(ask()).error_code == "model_unsupported"
    assert sum(node.loads("m") for node in nodes) == 1


def test_a_wanted_node_is_the_only_one_tried(fleet):
    fleet.node("a", devices=[9000])
    wanted = fleet.node("b")
    wanted.failures["m"] = ApiError(422, "model_broken", "broken")
    fleet.model()
    assert fleet.run(ask(node="b")).error_code == "model_broken"
    wanted.failures.clear()
    assert fleet.run(ask(node="b")).node == "b"


def test_a_second_load_after_a_failure_succeeds(fleet):
    node = fleet.node("a")
    node.failures["m"] = ApiError(422, "model_broken", "broken")
    fleet.model()
    fleet.run(ask())
    node.failures.clear()
    assert fleet.run(ask()).state == "succeeded"


def test_a_node_that_forgets_is_asked_again(fleet):
    """As a daemon that restarts between saying yes and being looked at."""
    node = fleet.node("a")
    fleet.model()
    real = node._load

    async def forget(spec):
        await real(spec)
        if node.loads("m") == 1:
            node.restart()

    node._load = forget
    assert fleet.run(ask()).state == "succeeded"
    assert node.loads("m") == 2


def test_a_node_that_always_forgets_is_given_up(fleet):
    node = fleet.node("a")
    fleet.model()

    async def ignore(spec):
        node.asked.append(("/models/load", spec.model_id))

    node._load = ignore
    assert fleet.run(ask()).error_code == "load_forgotten"
    assert node.loads("m") == 3


def test_a_node_that_dies_while_it_loads(fleet, until):
    node = fleet.node("a")
    fleet.model()
    operation = ask()
    with override_settings(NODE_WAIT_S=0.3), node.hold("/models/load"):
        thread = fleet.start(operation)
        until(lambda: node.loads("m") == 1)
        node.stop()
        thread.join()
    view = lifecycle.operation(operation)
    assert (view.state, view.error_code) == ("failed", "node_unreachable")
    assert claimed() == 0


def test_a_load_without_any_node_fails(fleet):
    fleet.model()
    assert fleet.run(ask()).error_code == "no_node"


def test_a_node_that_is_away_is_waited_for_and_then_named(fleet):
    fleet.node("a").stop()
    Node.objects.update(healthy=False)
    fleet.model()
    operation = ask()
    execution.run_operation(operation)
    assert lifecycle.operation(operation).state == "pending"
    with override_settings(NODE_WAIT_S=0):
        row = fleet.run(operation)
    assert (row.state, row.error_code) == ("failed", "node_unreachable")
    assert row.message == "a: the node does not answer"


def test_a_model_that_is_loaded_already_is_not_loaded_twice(fleet):
    node = fleet.node("a")
    node.has("m")
    fleet.node("b", devices=[9000])
    polling.poll()
    fleet.model()
    row = fleet.run(ask())
    assert (row.state, row.message) == ("succeeded", "was loaded on a already")
    assert node.loads("m") == 0


def test_a_model_that_a_node_loaded_by_itself_is_not_loaded_elsewhere(fleet):
    node = fleet.node("a")
    other = fleet.node("b", devices=[9000])
    fleet.model()
    node.has("m")  # since the last poll: it loaded it at its start
    row = fleet.run(ask())
    assert (row.state, row.message) == ("succeeded", "was loaded on a already")
    assert (node.loads("m"), other.loads("m")) == (0, 0)


def test_two_loads_on_one_device_follow_each_other(fleet, until):
    node = fleet.node("a", devices=[2500])
    node.sizes = {"m": 2000, "n": 2000}
    fleet.model("m", vram_mb=2000)
    fleet.model("n", vram_mb=2000)
    first, second = ask("m"), ask("n")
    with node.hold("/models/load"):
        thread = fleet.start(first)
        until(lambda: node.loads("m") == 1)
        execution.run_operation(second)
        assert lifecycle.operation(second).state == "pending"
        assert node.loads("n") == 0
    thread.join()
    assert fleet.run(second).state == "succeeded"
    assert list(node.models) == ["n"]


def test_an_internal_error_ends_the_operation(fleet, monkeypatch):
    fleet.node("a")
    fleet.model()
    monkeypatch.setattr("fleet.services.operations.loading.choose", lambda lease: 1 / 0)
    row = fleet.run(ask())
    assert (row.state, row.error_code) == ("failed", "internal_error")
    assert row.message == "ZeroDivisionError: division by zero"

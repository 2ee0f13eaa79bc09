"""A neuron that says what cannot be: corrected to its disadvantage, flagged, and otherwise in use."""

from __future__ import annotations

import pytest
from django.conf import settings

from cortex_site.base.secret_file import obtain
from fleet.models import Device, Node, Placement
from fleet.services import polling

# what a device says: used, free; what is believed of 8000 MiB; what is told
MEMORY = [
    ((0, 8000), (0, 8000), None),
    ((1000, 6000), (1000, 6000), None),
    ((1000, 7050), (1000, 7000), None),  # two counters, read one after the other
    ((0, 9000), (0, 8000), "device 0: 0 MiB used and 9000 MiB free of 8000 MiB"),
    ((9000, 0), (8000, 0), "device 0: 9000 MiB used and 0 MiB free of 8000 MiB"),
    ((8000, 8000), (8000, 0), "device 0: 8000 MiB used and 8000 MiB free of 8000 MiB"),
    ((-1, 8000), (0, 8000), "device 0: -1 MiB used and 8000 MiB free"),
    ((0, -5), (0, 0), "device 0: 0 MiB used and -5 MiB free"),
    ((2**62, 2**62), (8000, 0), f"device 0: {2**62} MiB used and {2**62} MiB free of 8000 MiB"),
]
MODELS = [
    ({}, {"state": "loaded", "devices": [0], "memory_mb": 1000}, None),
    (
        {"state": "dreaming"},
        {"state": "failed", "error_code": "unknown_state"},
        "'m': state 'dreaming' is unknown",
    ),
    ({"state": "x" * 99}, {"state": "failed"}, f"'m': state {'x' * 50!r} is unknown"),
    ({"memory_mb": 9000}, {"memory_mb": 8000}, "'m': takes 9000 MiB of 8000 MiB"),
    ({"bits_per_weight": -1}, {"bits_per_weight": None}, "'m': -1.0 bits per weight"),
    ({"bits_per_weight": 1e9}, {"bits_per_weight": None}, "'m': 1000000000.0 bits per weight"),
    ({"memory_mb": -1}, {"state": "loaded"}, "'m': takes -1 MiB of 8000 MiB"),
    ({"devices": [0, 7]}, {"devices": [0]}, "'m': on device 7, which the node does not have"),
    ({"devices": [-1]}, {"devices": []}, "'m': on device -1, which the node does not have"),
]


@pytest.fixture
def node(fleet):
    fake = fleet.node("a", devices=[8000])
    fake.has("m")
    return fake


def say(fake, path, change):
    """Poll it while its answer at `path` is changed."""
    told = {
        "/health": fake._health().model_dump,
        "/models": lambda: [info.model_dump() for info in fake.models.values()],
    }
    answer = told[path]()
    change(answer)
    fake.answers[path] = answer
    polling.poll()
    return Node.objects.get()


@pytest.mark.parametrize(("said", "believed", "warning"), MEMORY)
def test_memory_that_cannot_be(node, said, believed, warning):
    node.models.clear()
    used, free = said
    row = say(
        node, "/health", lambda health: health["devices"][0].update(memory_used_mb=used, memory_free_mb=free)
    )
    device = Device.objects.get()
    assert (device.memory_used_mb, device.memory_free_mb) == believed
    assert row.warnings == ([warning] if warning else [])
    assert (row.healthy, row.misses) == (True, 0)


@pytest.mark.parametrize(("said", "believed", "warning"), MODELS)
def test_models_that_cannot_be(node, said, believed, warning):
    row = say(node, "/models", lambda models: models[0].update(said))
    placement = Placement.objects.get()
    assert {name: getattr(placement, name) for name in believed} == believed
    assert warning is None or warning in row.warnings
    assert (row.healthy, bool(row.warnings)) == (True, warning is not None)


@pytest.mark.parametrize("total", [0, -1])
def test_a_device_without_memory(node, total):
    node.devices_mb = [total]
    node.models.clear()
    node.restart()
    polling.poll()
    assert Device.objects.get().memory_free_mb == 0
    assert Node.objects.get().warnings == [f"device 0: {total} MiB of memory in all"]


def test_models_that_are_more_than_the_device(node):
    node.has("n", "o")
    row = say(node, "/models", lambda models: [model.update(memory_mb=4000) for model in models])
    assert row.warnings == ["device 0: models of 12000 MiB in 8000 MiB"]


def test_unknown_states_of_node_and_device(node):
    def change(health):
        health["status"] = "splendid indeed"
        health["devices"][0]["state"] = "levitating"

    row = say(node, "/health", change)
    assert row.warnings == ["device 0: state 'levitating' is unknown", "status 'splendid indeed' is unknown"]
    assert Device.objects.get().state == "levitating"  # which is not ready: nothing is loaded there


def test_requests_less_than_none(node):
    row = say(node, "/health", lambda health: health["models"][0].update(running=-3, waiting=2))
    placement = Placement.objects.get()
    assert (placement.running, placement.waiting) == (0, 2)
    assert row.warnings == ["'m': -3 requests running and 2 waiting"]


def test_many_lies_are_some_warnings(node):
    row = say(
        node,
        "/models",
        lambda models: models.extend(models[0] | {"id": f"m{n}", "state": "?"} for n in range(99)),
    )
    assert len(row.warnings) == 20


def test_a_warning_is_shown_and_ends_with_the_lie(node, staff, client_for):
    node.models.clear()
    warning = "device 0: 0 MiB used and 9000 MiB free of 8000 MiB"
    say(node, "/health", lambda health: health["devices"][0].update(memory_free_mb=9000))
    assert warning in staff.get("/admin/fleet/node/").content.decode()
    operator = client_for(headers={"authorization": f"Bearer {obtain(settings.OPERATOR_TOKEN_FILE)}"})
    assert operator.get("/api/status").json()["nodes"][0]["warnings"] == [warning]
    node.answers.clear()
    polling.poll()
    assert Node.objects.get().warnings == []


@pytest.mark.parametrize("protocol", [0, 2, 99])
def test_another_protocol_is_named_and_not_trusted(node, protocol):
    polling.poll()
    node.protocol = protocol
    node.restart()
    for _ in range(3):
        polling.poll()
    row = Node.objects.get()
    assert (row.healthy, row.reason) == (False, f"a speaks protocol {protocol}, this cortex speaks 1")

"""What is kept loaded without a request: pinned models and replicas."""

from __future__ import annotations

from django.test import override_settings

from fleet.models import Operation
from fleet.services import lifecycle, policy, polling, residency


def settle(fleet):
    """Until nothing more is asked for; the loads that were, in order."""
    while residency.keep():
        for row in Operation.objects.filter(state="pending"):
            fleet.run(row.pk)
    return [(row.model, row.node, row.state) for row in Operation.objects.filter(kind="load").order_by("id")]


def test_a_pinned_model_is_loaded_on_each_of_its_nodes_and_again_when_it_is_gone(fleet):
    a, b = fleet.node("a"), fleet.node("b")
    fleet.model(pinned_on=["a", "b", "not-there"])
    assert settle(fleet) == [("m", "a", "succeeded"), ("m", "b", "succeeded")]
    b.restart()
    polling.poll()
    assert settle(fleet)[2:] == [("m", "b", "succeeded")]
    assert (a.loads("m"), b.loads("m")) == (1, 2)


def test_a_pin_makes_room(fleet):
    node = fleet.node("a", devices=[2000])
    node.sizes = {"old": 1500, "m": 1800}
    node.has("old")
    polling.poll()
    fleet.model(pinned_on=["a"], vram_mb=1800)
    settle(fleet)
    assert list(node.models) == ["m"]


def test_a_cordoned_node_gets_no_pinned_models(fleet):
    fleet.node("a")
    fleet.model(pinned_on=["a"])
    policy.cordon("a", requested_by="alice")
    assert settle(fleet) == []


def test_replicas_come_once_the_model_is_in_use_each_on_a_node_of_its_own(fleet):
    for name in ("a", "b", "c"):
        fleet.node(name)
    fleet.model(replicas=2)
    assert settle(fleet) == []
    fleet.run(lifecycle.ensure_loaded("m", requested_by="request").id)
    loads = settle(fleet)
    assert [state for _, _, state in loads] == ["succeeded", "succeeded"]
    assert len({node for _, node, _ in loads}) == 2


def test_a_replica_evicts_nobody_and_its_failure_refuses_no_request(fleet):
    node = fleet.node("a")
    full = fleet.node("b", devices=[2000])
    full.sizes = {"other": 1500}
    full.has("other")
    node.has("m")
    polling.poll()
    fleet.model(replicas=2, vram_mb=1000)
    assert settle(fleet) == []
    Operation.objects.create(
        kind="load", model="m", state="failed", replica=True, finished_at="2999-01-01T00:00Z"
    )
    node.restart()
    polling.poll()
    assert fleet.run(lifecycle.ensure_loaded("m", requested_by="request").id).state == "succeeded"


def test_a_pinned_model_that_failed_rests_for_the_back_off(fleet):
    node = fleet.node("a")
    fleet.model(pinned_on=["a"], vram_mb=9000)
    assert node.devices_mb == [8000]
    assert [state for _, _, state in settle(fleet)] == ["failed"]
    with override_settings(FAILURE_BACKOFF_S=0):
        assert residency.keep() == 1

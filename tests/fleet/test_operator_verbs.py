"""Cordon, drain, restart, pin: what an operator decides, and that who decided it and why is written down."""

from __future__ import annotations

import pytest
from django.db import IntegrityError
from django.test import override_settings

from fleet.models import AuditEntry, Node, Operation
from fleet.services import lifecycle, policy, polling
from fleet.services.operations import execution
from neuron.wire import ApiError
from tests.fleet.test_execution import ask, claimed


def refused(verb, *arguments, **options):
    with pytest.raises(ApiError) as caught:
        verb(*arguments, requested_by="alice", **options)
    return caught.value.status, caught.value.code


def log():
    return [(row.who, row.action, row.target, row.why) for row in AuditEntry.objects.order_by("id")]


def busy(node, *models):
    node.busy |= dict.fromkeys(models, 1)
    polling.poll()


def test_nothing_new_comes_to_a_cordoned_node(fleet):
    fleet.node("a", devices=[9000])
    fleet.node("b", devices=[4000])
    fleet.model()
    policy.cordon("a", requested_by="alice", reason="fan is loud")
    assert fleet.run(ask()).node == "b"
    assert refused(lifecycle.load, "m", "a") == (409, "node_cordoned")
    policy.uncordon("a", requested_by="alice")
    assert fleet.run(lifecycle.load("m", "a").id).node == "a"
    assert log()[0] == ("alice", "cordon", "a", "fan is loud")
    assert ("alice", "uncordon", "a", "") in log()


def test_a_model_that_fits_a_cordoned_node_only_is_refused_with_the_reason(fleet):
    fleet.node("a")
    fleet.model()
    policy.cordon("a", requested_by="alice")
    row = fleet.run(ask())
    assert (row.state, row.error_code, row.message) == ("failed", "no_node_fits", "a: is cordoned")


def test_a_drain_waits_for_requests_and_leaves_the_node_empty_and_cordoned(fleet, until):
    node = fleet.node("a")
    node.has("m", "n")
    busy(node, "m")
    operation = lifecycle.drain("a", requested_by="alice", reason="new power supply").id
    working = fleet.start(operation)
    until(lambda: node.models["m"].state == "unloading")
    assert Operation.objects.get(pk=operation).state == "running"
    node.busy.clear()
    working.join()
    row = Operation.objects.get(pk=operation)
    assert (row.state, row.message) == ("succeeded", "2 models left a, which is cordoned")
    assert node.models == {}
    assert Node.objects.get().cordoned
    assert claimed() == 0
    assert {child.reason for child in row.children.all()} == {f"drains a (#{row.pk})"}
    assert ("alice", "drain", "a", "new power supply") in log()


def test_a_drain_keeps_what_stays_busy_unless_forced(fleet):
    node = fleet.node("a")
    node.has("m", "n")
    busy(node, "m")
    with override_settings(DRAIN_GRACE_S=0.05):
        row = fleet.run(lifecycle.drain("a", requested_by="alice").id)
    assert (row.state, row.error_code) == ("failed", "model_busy")
    assert fleet.states() == {"m@a": "loaded", "n@a": "unloaded"}
    assert fleet.run(lifecycle.drain("a", requested_by="alice", force=True).id).state == "succeeded"
    assert node.models == {}


def test_a_drain_whose_worker_died_is_finished_by_another(fleet, until):
    node = fleet.node("a")
    node.has("m", "n")
    polling.poll()
    operation = lifecycle.drain("a", requested_by="alice").id
    with node.hold("/models/unload"):
        dead = fleet.start(operation)
        until(lambda: node.asked)
        fleet.orphan(operation)
        heir = fleet.start(operation)
        until(lambda: Operation.objects.get(pk=operation).attempts == 1)
    heir.join()
    dead.join()
    assert Operation.objects.get(pk=operation).state == "succeeded"
    assert node.models == {}
    assert claimed() == 0


@pytest.mark.parametrize("kind", ["restart", "defrag"])
def test_a_device_is_restarted_and_its_models_stay(fleet, until, kind):
    node = fleet.node("a")
    node.has("m")
    node.cycles = 60
    busy(node, "m")
    operation = getattr(lifecycle, kind)("a", 0, requested_by="alice")
    assert operation == lifecycle.defrag("a", 0, requested_by="bob")  # one at a time
    working = fleet.start(operation.id)
    until(lambda: node.models["m"].state == "loading")
    assert claimed() == 1
    node.busy.clear()
    working.join()
    row = Operation.objects.get()
    assert (row.state, row.message) == ("succeeded", "a:0 has a new worker and its models")
    assert fleet.states() == {"m@a": "loaded"}
    assert Node.objects.get().devices.get().cycles == 0
    assert log() == [("alice", kind, "a:0", "")]


def test_a_request_for_a_model_that_its_node_brings_back_waits_for_that(fleet, until):
    node = fleet.node("a", devices=[2000])
    fleet.node("b", devices=[2000])
    node.has("m")
    fleet.model(vram_mb=1000)
    polling.poll()
    with node.hold("/devices/0/restart"):
        restarting = fleet.start(lifecycle.restart("a", 0, requested_by="alice").id)
        until(lambda: node.models["m"].state == "loading")
        polling.poll()
        load = ask()
        execution.run_operation(load)
        waiting = Operation.objects.get(pk=load)
        assert (waiting.state, waiting.message) == ("pending", "a is loading it already")
    restarting.join()
    assert fleet.run(load).message == "was loaded on a already"
    assert node.loads("m") == 0


def test_a_busy_device_is_restarted_by_force_only(fleet):
    node = fleet.node("a")
    node.has("m")
    busy(node, "m")
    with override_settings(DRAIN_GRACE_S=0.05):
        row = fleet.run(lifecycle.restart("a", 0, requested_by="alice").id)
    assert (row.state, row.error_code) == ("failed", "model_busy")
    assert fleet.run(lifecycle.restart("a", 0, requested_by="alice", force=True).id).state == "succeeded"


def test_the_database_admits_one_restart_per_device_and_one_drain_per_node(fleet):
    for fields in ({"kind": "restart", "device": 0}, {"kind": "drain"}):
        Operation.objects.create(wanted_node="a", **fields)
        with pytest.raises(IntegrityError):
            Operation.objects.create(wanted_node="a", **fields)


def test_an_unload_waits_for_requests_unless_forced(fleet):
    node = fleet.node("a")
    node.has("m")
    busy(node, "m")
    with override_settings(DRAIN_GRACE_S=0.05):
        row = fleet.run(lifecycle.unload("m", "a", requested_by="alice").id)
    assert (row.state, row.error_code) == ("failed", "model_busy")
    assert fleet.states() == {"m@a": "loaded"}
    assert fleet.run(lifecycle.unload("m", "a", requested_by="alice", force=True).id).state == "succeeded"
    assert node.models == {}


def test_pins_are_set_removed_and_audited(fleet):
    fleet.node("a")
    profile = fleet.model()
    policy.pin("m", "a", requested_by="alice", reason="the demo")
    policy.pin("m", requested_by="alice")
    profile.refresh_from_db()
    assert (profile.pinned_on, profile.pinned) == (["a"], True)
    policy.unpin("m", "a", requested_by="alice")
    profile.refresh_from_db()
    assert (profile.pinned_on, profile.pinned) == ([], True)
    assert refused(policy.unpin, "m", "a") == (404, "not_pinned")
    policy.unpin("m", requested_by="alice")
    profile.refresh_from_db()
    assert not profile.pinned
    assert log()[0] == ("alice", "pin", "m", "the demo")
    assert AuditEntry.objects.order_by("id")[0].detail["pinned_on"] == ["a"]


def test_verbs_refuse_unknown_names_and_other_servers(fleet):
    fleet.node("a")
    Node.objects.create(name="cloud", kind="openai", endpoint="http://x:1/v1")
    fleet.model("filed", from_file=True)
    for verb in (policy.cordon, policy.uncordon, lifecycle.drain):
        assert refused(verb, "nowhere") == (404, "node_not_found")
        assert refused(verb, "cloud") == (409, "no_lifecycle")
    assert refused(lifecycle.restart, "a", 7) == (404, "device_not_found")
    assert refused(policy.pin, "unknown") == (404, "model_not_found")
    assert refused(policy.pin, "filed") == (409, "owned_by_file")
    assert log() == []

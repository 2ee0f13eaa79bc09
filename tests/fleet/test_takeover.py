from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from fleet.models import Device, Operation, Placement
from fleet.services import lifecycle, polling
from fleet.services.operations import execution, unloading
from fleet.services.operations.lease import Lease, LeaseLostError
from tests.fleet.test_execution import ask, claimed


def test_a_worker_that_dies_while_loading_is_succeeded_by_another(fleet, until):
    node = fleet.node("a")
    fleet.model()
    operation = ask()
    with node.hold("/models/load"):
        dead = fleet.start(operation)
        until(lambda: node.loads("m") == 1)
        fleet.orphan(operation)
        heir = fleet.start(operation)
        until(lambda: Operation.objects.get().attempts == 1)
    heir.join()
    dead.join()
    row = Operation.objects.get()
    assert (row.state, row.node, row.attempts) == ("succeeded", "a", 1)
    assert claimed() == 0


def test_a_worker_that_dies_while_evicting_is_succeeded_by_another(fleet, until):
    node = fleet.node("a", devices=[2000])
    node.sizes = {"old": 1500, "m": 1800}
    node.has("old")
    polling.poll()
    fleet.model(vram_mb=1800)
    operation = ask()
    with node.hold("/models/unload"):
        dead = fleet.start(operation)
        until(lambda: ("/models/unload", "old") in node.asked)
        fleet.orphan(operation)
        heir = fleet.start(operation)
        until(lambda: Operation.objects.get(pk=operation).attempts == 1)
    heir.join()
    dead.join()
    assert Operation.objects.get(pk=operation).state == "succeeded"
    assert list(node.models) == ["m"]
    assert not Operation.objects.filter(state__in=["pending", "running"]).exists()
    assert Operation.objects.get(kind="evict").state == "succeeded"


def test_a_worker_that_lost_its_lease_leaves_its_eviction_to_the_next(fleet, monkeypatch):
    node = fleet.node("a", devices=[2000])
    node.sizes = {"old": 1500, "m": 1800}
    node.has("old")
    polling.poll()
    fleet.model(vram_mb=1800)
    operation = ask()
    remove = unloading.remove

    def remove_and_fall_silent(*arguments: object) -> None:
        remove(*arguments)
        fleet.orphan(operation)

    with monkeypatch.context() as patch:
        patch.setattr(unloading, "remove", remove_and_fall_silent)
        execution.run_operation(operation)
    assert Operation.objects.get(kind="evict").state == "running"
    execution.run_operation(operation)
    eviction = Operation.objects.get(kind="evict")
    assert (eviction.state, eviction.message) == ("succeeded", f"over with #{operation}: loaded on a")


def test_a_worker_that_dies_right_after_its_choice_is_succeeded_by_another(fleet, monkeypatch):
    node = fleet.node("a")
    fleet.model()
    operation = ask()

    class KilledError(BaseException):
        pass

    def die(**_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Placement.objects, "get_or_create", die)
        with pytest.raises(KilledError):
            execution.run_operation(operation)
    fleet.orphan(operation)
    execution.run_operation(operation)
    row = Operation.objects.get(pk=operation)
    assert (row.state, row.node, row.error_code) == ("succeeded", "a", "")
    assert list(node.models) == ["m"]


def test_a_lost_lease_writes_nothing(fleet):
    fleet.model()
    operation = ask()
    lease = Lease.take(operation)
    assert lease is not None
    assert Lease.take(operation) is None
    Operation.objects.update(lease=uuid.uuid4())
    with pytest.raises(LeaseLostError):
        lease.finish("succeeded", "mine")
    assert Operation.objects.get().state == "running"


def test_reconcile_sends_again_what_was_lost(fleet, redis_server):
    fleet.model()
    operation = ask()
    redis_server.client.flushall()
    execution.reconcile()
    assert redis_server.client.llen("operations") == 0  # it may still be on its way
    Operation.objects.update(due_at=timezone.now() - timedelta(seconds=60))
    execution.reconcile()
    execution.reconcile()
    assert redis_server.client.llen("operations") == 1
    execution.run_operation(operation)
    fleet.orphan(operation)
    Operation.objects.update(state="running", lease=uuid.uuid4())
    execution.reconcile()
    assert redis_server.client.llen("operations") >= 2


def test_an_operation_that_kills_its_workers_is_failed(fleet):
    fleet.node("a")
    fleet.model()
    operation = ask()
    Lease.take(operation)
    for _ in range(3):
        fleet.orphan(operation)
        assert Lease.take(operation) is not None
    Device.objects.update(claimed_by=operation)
    fleet.orphan(operation)
    assert Lease.take(operation) is None
    execution.reconcile()
    view = lifecycle.operation(operation)
    assert (view.state, view.error_code, view.message) == ("failed", "worker_lost", "4 workers died over it")
    assert claimed() == 0

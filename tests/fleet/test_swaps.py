"""Models that follow one another in one place: who waits how long, what becomes of requests in between."""

from __future__ import annotations

from datetime import timedelta

from django.test import override_settings
from django.utils import timezone

from fleet.models import Operation, Placement
from fleet.services import lifecycle, polling
from fleet.services.operations import execution
from tests.fleet.test_execution import ask, claimed


def full_of_old(fleet):
    """A node that holds one of its models at a time."""
    node = fleet.node("a", devices=[2000])
    node.sizes = dict.fromkeys(("old", "m", "n"), 1500)
    node.has("old")
    polling.poll()
    for model in ("m", "n", "old"):
        fleet.model(model, vram_mb=1500)
    return node


def test_a_model_that_has_just_come_stays_for_its_least_residency(fleet):
    """A B A B: what waits for the place gathers meanwhile, and is swapped in once."""
    node = full_of_old(fleet)
    with override_settings(MIN_RESIDENCY_S=60.0):
        operation = ask()
        for _ in range(3):
            Operation.objects.update(due_at=timezone.now())
            execution.run_operation(operation)
            assert ask() == operation
        assert node.loads("m") == 0
        Placement.objects.update(changed_at=timezone.now() - timedelta(seconds=61))
        assert fleet.run(operation).state == "succeeded"
        back = lifecycle.ensure_loaded("old", requested_by="test").id
        execution.run_operation(back)
        assert lifecycle.operation(back).state == "pending"
        assert list(node.models) == ["m"]


def test_a_load_that_waited_its_bound_lets_a_busy_model_take_no_new_requests(fleet, until):
    """ollama#17408: the victim's request is answered, and so is the one that waits for its place."""
    node = full_of_old(fleet)
    node.busy["old"] = 1
    operation = ask()
    with override_settings(SWAP_WAIT_S=0.0):
        loading = fleet.start(operation)
        until(lambda: node.models["old"].state == "unloading")
        assert node.loads("m") == 0
        node.busy.clear()
        loading.join()
    assert Operation.objects.get(pk=operation).state == "succeeded"
    assert list(node.models) == ["m"]


def test_a_victim_that_gets_a_request_at_that_moment_keeps_its_place(fleet):
    """The gateway's request came after the facts were read: the model stays, the load is tried again."""
    node = full_of_old(fleet)
    operation = ask()
    unload = node._unload

    async def unload_in_use(model, leave):
        node.busy["old"] = 1
        await unload(model, leave)

    node._unload = unload_in_use
    with override_settings(DRAIN_GRACE_S=0.05):
        execution.run_operation(operation)
    row = Operation.objects.get(pk=operation)
    assert (row.state, row.children.get().state) == ("pending", "cancelled")
    assert node.models["old"].state == "loaded"
    assert claimed() == 0
    node._unload = unload
    node.busy.clear()
    assert fleet.run(operation).state == "succeeded"


def test_swaps_of_one_node_happen_in_the_order_they_were_asked_for(fleet):
    node = full_of_old(fleet)
    node.busy["old"] = 1
    polling.poll()
    first = ask()
    execution.run_operation(first)
    node.busy.clear()
    second = lifecycle.ensure_loaded("n", requested_by="test").id
    execution.run_operation(second)
    waiting = lifecycle.operation(second)
    assert (waiting.state, waiting.message) == ("pending", f"its turn on a comes after operation #{first}")
    assert fleet.run(first).state == "succeeded"
    assert fleet.run(second).state == "succeeded"
    assert list(node.models) == ["n"]

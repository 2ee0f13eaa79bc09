from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import IntegrityError, connections, transaction
from django.test import override_settings
from django.utils import timezone

from fleet.models import Alias, ModelProfile, Node, Operation, Placement
from fleet.models.placement import IllegalTransitionError
from fleet.services import lifecycle
from neuron.wire import ApiError

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def model(db):
    return ModelProfile.objects.create(model_id="m")


@pytest.fixture
def node(db):
    return Node.objects.create(name="a", endpoint="http://a:1")


def test_a_load_is_asked_for_once_and_sent_to_a_worker(model, redis_server):
    first = lifecycle.ensure_loaded("m", requested_by="request 1")
    second = lifecycle.ensure_loaded("m", requested_by="request 2")
    assert first == second
    assert (first.kind, first.model, first.node, first.state) == ("load", "m", "", "pending")
    assert first.is_active
    assert redis_server.client.llen("operations") == 1
    assert Operation.objects.get().requested_by == "request 1"


def test_a_hundred_requests_at_once_are_one_load(model, redis_server):
    answers = []
    together = threading.Barrier(100)
    at_once = threading.Semaphore(60)  # a PostgreSQL admits 100 connections in all

    def ask():
        together.wait()
        with at_once:
            try:
                answers.append(lifecycle.ensure_loaded("m", requested_by="x").id)
            finally:
                connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 100
    assert set(answers) == {Operation.objects.get().pk}
    assert redis_server.client.llen("operations") == 1


def test_an_unknown_model_is_refused():
    with pytest.raises(ApiError) as error:
        lifecycle.ensure_loaded("nothing", requested_by="x")
    assert (error.value.status, error.value.code, error.value.param) == (404, "model_not_found", "model")
    assert not Operation.objects.exists()


def test_a_model_that_only_a_node_knows_can_be_loaded(node):
    Placement.objects.create(node=node, model="found")
    assert lifecycle.ensure_loaded("found", requested_by="x").state == "pending"


def test_an_alias_is_followed(model):
    Alias.objects.create(name="best", target="m")
    assert lifecycle.ensure_loaded("best", requested_by="x").model == "m"


def test_a_recent_failure_is_returned_to_requests_and_not_to_operators(model):
    failed = Operation.objects.create(
        kind="load", model="m", state="failed", message="broken", finished_at=timezone.now()
    )
    view = lifecycle.ensure_loaded("m", requested_by="x")
    assert (view.id, view.state, view.message) == (failed.pk, "failed", "broken")
    with override_settings(FAILURE_BACKOFF_S=0):
        assert lifecycle.ensure_loaded("m", requested_by="x").state == "pending"
    Operation.objects.filter(state="pending").delete()
    assert lifecycle.load("m", requested_by="operator").state == "pending"
    Operation.objects.filter(state="pending").delete()
    Operation.objects.update(finished_at=timezone.now() - timedelta(seconds=11))
    assert lifecycle.ensure_loaded("m", requested_by="x").state == "pending"


def test_an_operation_is_saved_when_no_broker_answers(model, redis_server):
    redis_server.stop()
    try:
        view = lifecycle.ensure_loaded("m", requested_by="x")
    finally:
        redis_server.start()
    assert view.state == "pending"
    assert lifecycle.operation(view.id) == view


def test_a_load_on_one_node_excludes_one_on_another(model, node):
    Node.objects.create(name="b", endpoint="http://b:1")
    first = lifecycle.load("m", "a")
    assert lifecycle.load("m", "a").id == first.id
    assert lifecycle.load("m").id == first.id
    with pytest.raises(ApiError) as error:
        lifecycle.load("m", "b")
    assert error.value.code == "operation_active"


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda: lifecycle.load("m", "nowhere"), "node_not_found"),
        (lambda: lifecycle.unload("m", "nowhere"), "node_not_found"),
        (lambda: lifecycle.unload("m", "a"), "model_not_loaded"),
        (lambda: lifecycle.operation(4711), "operation_not_found"),
        (lambda: lifecycle.retry(4711, requested_by="x"), "operation_not_found"),
        (lambda: lifecycle.cancel(4711, requested_by="x"), "operation_not_found"),
    ],
)
@pytest.mark.usefixtures("model", "node")
def test_unknown_names_are_refused_with_404(ask, code):
    with pytest.raises(ApiError) as error:
        ask()
    assert (error.value.status, error.value.code) == (404, code)


def test_an_unload_is_one_operation_per_placement(node):
    Placement.objects.create(node=node, model="m", state="loaded")
    first = lifecycle.unload("m", "a", requested_by="x")
    assert lifecycle.unload("m", "a", requested_by="y").id == first.id
    assert (first.kind, first.node, first.state) == ("unload", "a", "pending")


def test_retry_makes_a_new_operation(model):
    failed = Operation.objects.create(kind="load", model="m", state="failed", finished_at=timezone.now())
    again = lifecycle.retry(failed.pk, requested_by="op")
    assert again.id != failed.pk
    assert Operation.objects.get(pk=again.id).reason == f"retry of #{failed.pk}"


def test_only_a_pending_operation_can_be_cancelled(model):
    first = lifecycle.ensure_loaded("m", requested_by="x")
    assert lifecycle.cancel(first.id, requested_by="op").state == "cancelled"
    with pytest.raises(ApiError) as error:
        lifecycle.cancel(first.id, requested_by="op")
    assert error.value.status == 409


def test_the_database_itself_admits_one_active_load(model):
    Operation.objects.create(kind="load", model="m", state="running")
    with pytest.raises(IntegrityError), transaction.atomic():
        Operation.objects.create(kind="load", model="m")
    Operation.objects.create(kind="load", model="other")
    Operation.objects.create(kind="load", model="m", state="failed")


@pytest.mark.parametrize("state", Placement.State.values)
def test_a_placement_moves_along_the_table_and_nowhere_else(node, state):
    for target in Placement.State.values:
        row = Placement.objects.create(node=node, model=f"{state}-{target}", state=state)
        if target in Placement.TRANSITIONS[Placement.State(state)]:
            row.move(target)
            assert Placement.objects.get(pk=row.pk).state == target
        else:
            with pytest.raises(IllegalTransitionError):
                row.move(target)
            assert Placement.objects.get(pk=row.pk).state == state


def test_of_two_who_move_a_placement_one_fails(node):
    row = Placement.objects.create(node=node, model="m", state="loaded")
    same = Placement.objects.get()
    row.move("unloading")
    with pytest.raises(IllegalTransitionError):
        same.move("unloading")


def test_a_load_is_expected_to_take_as_long_as_the_last_one_there(model):
    now = timezone.now()

    def loaded(node: str, seconds: float, **fields) -> None:
        started = now - timedelta(hours=1)
        times = {"started_at": started, "finished_at": started + timedelta(seconds=seconds)}
        facts = {"explanation": [{"node": node}], **times, **fields}
        Operation.objects.create(kind="load", model=model, node=node, state="succeeded", **facts)

    def expected() -> float | None:
        return lifecycle.operation(running.pk).eta_s

    running = Operation.objects.create(
        kind="load", model=model, node="a", state="running", started_at=now - timedelta(seconds=10)
    )
    assert expected() is None
    loaded("a", 0.0, explanation=[])  # it was there already
    assert expected() is None
    loaded("b", 100)
    assert 80 < expected() <= 90
    loaded("a", 40)
    loaded("b", 100)
    assert 20 < expected() <= 30
    Operation.objects.filter(node="a").exclude(pk=running.pk).exclude(explanation=[]).update(
        finished_at=now - timedelta(hours=1) + timedelta(seconds=5)
    )
    assert expected() == 0.0

"""The table of kinds: what constraints, joining, retries, execution and views make of each of its rows."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from cortex_site.cli.watch import verdict
from fleet.api.schemas import OperationOut, OperationStateOut
from fleet.models import Device, ModelProfile, Node, Operation, Placement
from fleet.operations import (
    ACTIVE,
    GROUPS,
    RULES,
    UNSUCCESSFUL,
    OperationKind,
    OperationState,
    OperationView,
    target,
)
from fleet.services import lifecycle
from fleet.services.operations import execution, rows
from neuron.wire import ApiError

KINDS = list(OperationKind)
RETRYABLE = [kind for kind, rules in RULES.items() if rules.is_retryable]
ASKED = {"model": "m", "wanted_node": "a", "device": 0, "replica": True, "unless_busy": True, "force": True}
WRITTEN = {  # columns that are not asked for: what an operation is, who asked, and what the fleet made of it
    "traceparent",
    *("id", "kind", "state", "requested_by", "reason", "node", "progress", "message", "error_code"),
    *("explanation", "victims", "failed_nodes", "attempts", "lease"),
    *("created_at", "due_at", "started_at", "heartbeat_at", "finished_at"),
}


@pytest.fixture
def placed(db):
    """A node with one device, and a model that is loaded on it."""
    ModelProfile.objects.create(model_id="m")
    node = Node.objects.create(name="a", endpoint="http://a:1")
    Device.objects.create(node=node, index=0)
    Placement.objects.create(node=node, model="m", state="loaded")


def asked(kind, **changed):
    """An operation of that kind with all that can be asked of it."""
    columns = {column: ASKED[column] for column in RULES[kind].asked if column != "parent"}
    if "parent" in RULES[kind].asked:
        columns["parent"] = Operation.objects.get_or_create(kind="load", model="other", state="running")[0]
    return rows.wish(kind, **(columns | changed))


def failed(kind):
    row = asked(kind, state=OperationState.FAILED)
    row.save()
    return row


def refused(verb, *arguments):
    with pytest.raises(ApiError) as caught:
        verb(*arguments, requested_by="op")
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_asked_for_twice_is_one_row(placed, kind):
    first = rows.begin(asked(kind))
    assert rows.begin(asked(kind)).pk == first.pk
    assert Operation.objects.filter(kind=kind).count() == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ACTIVE)
def test_the_database_admits_one_active_operation_of_a_group(placed, kind, state):
    asked(kind, state=state).save()
    for other in GROUPS[RULES[kind].group]:
        with pytest.raises(IntegrityError), transaction.atomic():
            asked(other).save()
    Operation.objects.filter(kind=kind).update(state=OperationState.FAILED)
    asked(kind).save()


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_one_group_join_each_other(placed, kind):
    active = rows.begin(asked(kind))
    for other in GROUPS[RULES[kind].group]:
        assert rows.begin(asked(other)).pk == active.pk


@pytest.mark.parametrize("kind", [kind for kind, rules in RULES.items() if rules.conflicts_in])
def test_a_load_that_contradicts_the_active_one_is_refused_with_its_name(placed, kind):
    active = rows.begin(asked(kind))
    with pytest.raises(ApiError) as caught:
        rows.begin(asked(kind, wanted_node="b"))
    assert (caught.value.status, caught.value.code) == (409, "operation_active")
    assert f"(#{active.pk}) is pending: cancel it or wait" in caught.value.message
    assert rows.begin(asked(kind, wanted_node="")).pk == active.pk


@pytest.mark.parametrize("kind", RETRYABLE)
def test_a_retry_keeps_all_that_was_asked(placed, kind):
    row = failed(kind)
    again = Operation.objects.get(pk=lifecycle.retry(row.pk, requested_by="op").id)
    assert again.pk != row.pk
    assert (again.kind, again.state, again.requested_by) == (kind, "pending", "op")
    assert again.reason == f"retry of #{row.pk}"
    assert {column: getattr(again, column) for column in RULES[kind].asked} == {
        column: ASKED[column] for column in RULES[kind].asked
    }


@pytest.mark.parametrize("kind", RETRYABLE)
@pytest.mark.parametrize("state", [state for state in OperationState if state != OperationState.FAILED])
def test_only_a_failed_operation_is_retried(placed, kind, state):
    row = asked(kind, state=state)
    row.save()
    error = refused(lifecycle.retry, row.pk)
    assert (error.status, error.code) == (409, "operation_not_failed")
    cure = "Wait until it is over." if state in ACTIVE else "Ask for it anew."
    assert error.message.startswith(f"Operation {row.pk} ({row.subject}) is {state}; only failed ones")
    assert error.message.endswith(cure)
    assert Operation.objects.count() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_root_is_retried(placed, kind):
    root = Operation.objects.create(kind="drain", wanted_node="b", state="failed")
    part = asked(kind, state=OperationState.FAILED, parent=root)
    part.save()
    error = refused(lifecycle.retry, part.pk)
    assert (error.status, error.code) == (409, "operation_not_retryable")
    assert error.message.endswith(f" is a part of drain of b #{root.pk}: retry that one.")


def test_an_eviction_without_a_parent_is_not_retried(placed):
    row = Operation.objects.create(kind="evict", model="m", wanted_node="a", state="failed")
    assert refused(lifecycle.retry, row.pk).code == "operation_not_retryable"


def test_a_retried_restart_joins_the_defrag_of_its_device(placed):
    row = failed(OperationKind.RESTART)
    active = lifecycle.defrag("a", 0, requested_by="op")
    assert lifecycle.retry(row.pk, requested_by="op") == active


def test_a_retry_goes_through_the_verb_of_its_kind(placed):
    row = failed(OperationKind.DRAIN)
    lifecycle.retry(row.pk, requested_by="op")
    assert Node.objects.get().cordoned
    failed_load = failed(OperationKind.LOAD)
    assert refused(lifecycle.retry, failed_load.pk).code == "node_cordoned"


def test_an_insert_that_the_database_refuses_for_good_is_given_up(placed, monkeypatch):
    insert = rows._insert
    tried = []
    monkeypatch.setattr(rows, "_insert", lambda row: tried.append(row) or insert(row))
    with pytest.raises(IntegrityError):
        rows.begin(rows.wish(OperationKind.RESTART, wanted_node="a", device=-1))
    assert len(tried) == rows.MAX_INSERTS


def test_each_kind_is_in_every_place_that_decides_by_kind():
    assert set(RULES) == set(OperationKind)
    assert [kind for kinds in GROUPS.values() for kind in kinds] == sorted(
        KINDS, key=lambda kind: list(GROUPS).index(RULES[kind].group)
    )
    assert set(lifecycle.VERBS) == set(RETRYABLE)
    runners = {rules.runner for rules in RULES.values() if rules.is_retryable}
    assert runners == set(execution.RUNNERS)
    assert [kind for kind, _ in Operation._meta.get_field("kind").choices] == KINDS
    names = {constraint.name for constraint in Operation._meta.constraints}
    assert {group.constraint for group in GROUPS} | {"operation_state_known"} == names


@pytest.mark.parametrize("kind", RETRYABLE)
def test_a_verb_takes_what_its_kind_is_asked_for(kind):
    arguments = set(inspect.signature(lifecycle.VERBS[kind]).parameters)
    columns = {"node" if column == "wanted_node" else column for column in RULES[kind].asked}
    assert arguments == columns | {"requested_by", "reason"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_of_a_group_are_asked_for(kind):
    rules = RULES[kind]
    assert set(rules.group.columns) <= set(rules.asked)
    assert set(rules.conflicts_in) <= {"place", *rules.asked}


def test_each_column_is_asked_for_or_written_by_the_fleet():
    columns = {column for rules in RULES.values() for column in rules.asked}
    assert columns == {"parent", *ASKED}
    assert {field.name for field in Operation._meta.concrete_fields} == columns | WRITTEN


@pytest.mark.parametrize("kind", KINDS)
def test_row_view_answer_and_command_name_an_operation_alike(placed, kind):
    row = failed(kind)
    row.node = "a"
    view = rows.view(row)
    answer = OperationStateOut.from_orm(view).model_dump()
    assert OperationView.parse(answer) == view
    assert row.subject == view.subject
    assert verdict(answer) == f"#{row.pk} {row.subject} failed"


def test_the_operator_api_shows_the_view_and_nothing_else():
    shown = {field.name for field in fields(OperationView)}
    assert set(OperationStateOut.model_fields) == shown - {"eta_s"}
    assert set(OperationStateOut.model_fields) <= set(OperationOut.model_fields)


def test_a_state_is_active_or_final():
    over = [state for state in OperationState if state not in ACTIVE]
    assert over == [OperationState.SUCCEEDED, *UNSUCCESSFUL]
    view = OperationView(id=1, kind="load", state="running")
    assert (view.is_active, view.is_unsuccessful) == (True, False)


@pytest.mark.parametrize(
    ("model", "place", "device", "named"),
    [("m", "a", None, "m on a"), ("m", "", None, "m"), ("", "a", None, "a"), ("", "a", 0, "a:0")],
)
def test_a_target_names_model_node_and_device(model, place, device, named):
    assert target(model, place, device) == named


class TestUpgrade:
    """Rows that older versions left, of which the new constraints would admit some only."""

    BEFORE = "0009_one_index_per_request_id"

    @pytest.fixture(autouse=True)
    def older(self, db):
        call_command("migrate", "fleet", self.BEFORE, verbosity=0)
        yield MigrationExecutor(connection).loader.project_state(("fleet", self.BEFORE)).apps
        call_command("migrate", "fleet", verbosity=0)

    def test_one_eviction_of_each_victim_stays_active(self, older):
        operations = older.get_model("fleet", "Operation").objects
        parent = operations.create(kind="load", model="m", state="running")
        other = operations.create(kind="drain", wanted_node="a", state="running")
        made = {
            name: operations.create(kind="evict", model=model, wanted_node="a", state=state, parent=of).pk
            for name, model, state, of in [
                ("first", "v", "running", parent),
                ("again", "v", "running", parent),
                ("over", "v", "succeeded", parent),
                ("neighbour", "w", "running", parent),
                ("elsewhere", "v", "running", other),
                ("retried", "v", "pending", None),
            ]
        }
        call_command("migrate", "fleet", verbosity=0)
        states = {name: Operation.objects.get(pk=pk).state for name, pk in made.items()}
        running = dict.fromkeys(("again", "neighbour", "elsewhere"), "running")
        assert states == running | {"first": "failed", "over": "succeeded", "retried": "failed"}
        assert Operation.objects.get(pk=made["first"]).finished_at

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from fleet import tasks
from fleet.celery import app
from fleet.models import ModelProfile, Node, Operation, Placement, RequestMetric
from fleet.services import idle, records, retention, schedule
from tests.stubs.records import RequestRecord

pytestmark = pytest.mark.usefixtures("db")


def row(**fields) -> bytes:
    values = {
        "request_id": "r1",
        "started_at": 1_700_000_000.0,
        "model": "m",
        "node": "a",
        "dialect": "openai-chat",
        "stream": True,
        "status": 200,
        "outcome": "ok",
    }
    return RequestRecord(**values | fields).row


def test_records_become_rows():
    records.store([row(completion_tokens=11, tokens_per_second=5.0, cold=True), row(request_id="r2")])
    first = RequestMetric.objects.get(request_id="r1")
    assert first.started_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (first.tokens_per_second, first.cold, first.model, first.status) == (5.0, True, "m", 200)
    assert RequestMetric.objects.get(request_id="r2").tokens_per_second is None


def test_an_empty_batch_writes_nothing():
    records.store([])
    assert RequestMetric.objects.count() == 0


def test_a_request_counts_as_use_of_its_placement_and_time_does_not_run_backwards():
    node = Node.objects.create(name="a", endpoint="http://a:1")
    Placement.objects.create(node=node, model="m", state="loaded")
    records.store([row(latency_s=2), row(latency_s=5)])
    ended = datetime.fromtimestamp(1_700_000_005, UTC)
    assert Placement.objects.get().last_used_at == ended
    records.store([row(started_at=1_600_000_000.0)])
    assert Placement.objects.get().last_used_at == ended


def test_old_rows_are_pruned_and_active_operations_stay(monkeypatch):
    monkeypatch.setattr(retention, "CHUNK", 2)
    now = timezone.now()
    records.store([row(started_at=(now - timedelta(days=31)).timestamp()) for _ in range(5)])
    records.store([row(request_id="new", started_at=now.timestamp())])
    long_ago = now - timedelta(days=91)
    Operation.objects.create(kind="load", model="old", state="failed", created_at=long_ago)
    Operation.objects.create(kind="load", model="active", state="running", created_at=long_ago)
    assert retention.prune() == 6
    assert RequestMetric.objects.get().request_id == "new"
    assert Operation.objects.get().model == "active"


def test_only_idle_models_are_unloaded():
    node = Node.objects.create(name="a", endpoint="http://a:1", healthy=True)
    long_ago = timezone.now() - timedelta(seconds=100)

    def loaded(model, *, ttl_s=60, used=long_ago, running=0, **fields):
        ModelProfile.objects.create(model_id=model, ttl_s=ttl_s, **fields)
        Placement.objects.create(
            node=node, model=model, state="loaded", changed_at=long_ago, last_used_at=used, running=running
        )

    loaded("idle")
    loaded("never-used", used=None)
    loaded("fresh", used=timezone.now())
    loaded("busy", running=1)
    loaded("pinned", pinned=True)
    loaded("pinned-here", pinned_on=["a"])
    loaded("pinned-elsewhere", pinned_on=["b"])
    loaded("patient", ttl_s=1000)
    loaded("forever", ttl_s=None)
    assert idle.unload_idle() == 3
    rows = Operation.objects.all()
    assert {row.model for row in rows} == {"idle", "never-used", "pinned-elsewhere"}
    assert {(row.kind, row.unless_busy, row.reason) for row in rows} == {("unload", True, "unused for 60 s")}


def test_the_schedule_is_created_once_and_then_edited_in_the_admin():
    schedule.ensure()
    row = PeriodicTask.objects.get(task="fleet.tasks.reconcile")
    assert (row.interval.every, row.expire_seconds) == (5, 5)
    row.enabled = False
    row.save()
    schedule.ensure()
    assert PeriodicTask.objects.get(task="fleet.tasks.reconcile").enabled is False


def test_every_scheduled_task_exists():
    schedule.ensure()
    assert {row.task for row in PeriodicTask.objects.all()} <= set(app.tasks)


@pytest.mark.parametrize("task", [tasks.poll, tasks.reconcile, tasks.unload_idle, tasks.prune])
def test_tasks_run_on_an_empty_fleet(task):
    task.apply(throw=True)


def test_the_task_of_a_deleted_operation_does_nothing():
    tasks.run_operation.apply([4711], throw=True)

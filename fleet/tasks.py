from __future__ import annotations

from fleet import announcements
from fleet.celery import app
from fleet.services import (
    batch_runs,
    defrag,
    habits,
    idle,
    joining,
    polling,
    residency,
    retention,
    traffic,
    usage,
)
from fleet.services.operations import execution


@app.task
def run_operation(operation_id: int) -> None:
    execution.run_operation(operation_id)


@app.task
def reconcile() -> None:
    execution.reconcile()


@app.task
def poll() -> None:
    polling.poll()
    joining.drop_silent()
    announcements.publish(announcements.POLLED, 1)


@app.task
def unload_idle() -> None:
    idle.unload_idle()


@app.task
def follow_habits() -> None:
    habits.follow()


@app.task
def prune() -> None:
    retention.prune()


@app.task
def roll_up() -> None:
    usage.roll_up()


@app.task
def sum_traffic() -> None:
    traffic.sum_up()


@app.task
def run_batch(ident: str) -> None:
    batch_runs.run(ident)


@app.task
def find_batches() -> None:
    batch_runs.reconcile()


@app.task
def keep_residents() -> None:
    residency.keep()


@app.task
def defragment() -> None:
    defrag.defragment()

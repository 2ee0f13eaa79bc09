"""Carries operations out, and finds those that no worker carries out.

Called by Celery tasks. A worker may be killed at any line: `reconcile` gives its operations to another one,
which goes on from the row. Once `MAX_ATTEMPTS` workers died over an operation, it is failed instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction
from django.utils import timezone

from fleet.models import Device, Operation
from fleet.operations import ACTIVE, OperationState, rules_of
from fleet.services.operations import draining, loading, restarting, traces, unloading
from fleet.services.operations.errors import NotNeededError, OperationError, PostponedError
from fleet.services.operations.lease import Lease, LeaseLostError, close_children
from fleet.services.operations.task_queue import enqueue

log = logging.getLogger("cortex.operations")

RUNNERS: Mapping[str | None, Callable[[Lease], str]] = {
    module.__name__.rpartition(".")[2]: module.run for module in (loading, unloading, draining, restarting)
}


def run_operation(operation_id: int) -> None:
    """Carry one operation out, unless it is over, not due, or another worker has it."""
    lease = Lease.take(operation_id)
    if lease is None:
        return
    context = {"operation": operation_id, "kind": lease.operation.kind, "model": lease.operation.model}
    try:
        _carry_out(lease)
    except LeaseLostError:
        log.warning("operation was taken over", extra=context)
    except DatabaseError:
        raise  # nothing can be recorded; `reconcile` finds the expired lease
    except Exception as error:  # whatever it was, the row must say so
        log.exception("operation broke", extra=context)
        lease.finish(OperationState.FAILED, f"{type(error).__name__}: {error}", error_code="internal_error")
    row = lease.operation
    if row.state == OperationState.PENDING:  # postponed: tried again every second, which would be a line each
        return
    traces.tell(row)
    log.info("operation", extra={**context, "node": row.node, "state": row.state, "outcome": row.message})


def _carry_out(lease: Lease) -> None:
    try:
        message = RUNNERS[rules_of(lease.operation.kind).runner](lease)
    except PostponedError as wait:
        lease.postpone(str(wait), wait.delay_s)
    except NotNeededError as reason:
        lease.finish(OperationState.CANCELLED, str(reason))
    except OperationError as error:
        lease.finish(OperationState.FAILED, error.message, error_code=error.code)
    else:
        lease.finish(OperationState.SUCCEEDED, message)


def reconcile() -> None:
    """Announce operations again whose message or worker was lost, and release the devices of ended ones."""
    now = timezone.now()
    lost = now - timedelta(seconds=settings.LEASE_S / 2)
    silent = now - timedelta(seconds=settings.LEASE_S)
    roots = Operation.objects.filter(parent=None)
    untold = roots.filter(state=OperationState.PENDING, due_at__lt=lost)
    orphans = roots.filter(state=OperationState.RUNNING, heartbeat_at__lt=silent)
    for row in orphans.filter(attempts__gte=settings.MAX_ATTEMPTS):
        _bury(row)
    again = [*untold.values_list("pk", flat=True), *orphans.values_list("pk", flat=True)]
    for operation_id in again:
        log.warning("operation is announced again", extra={"operation": operation_id})
        enqueue(operation_id)
    untold.update(due_at=now)  # at most one message per interval
    Device.objects.exclude(claimed_by=None).exclude(claimed_by__state__in=ACTIVE).update(claimed_by=None)


def _bury(row: Operation) -> None:
    message = f"{row.attempts + 1} workers died over it"
    with transaction.atomic():
        dead = Operation.objects.filter(
            pk=row.pk, state=OperationState.RUNNING, heartbeat_at=row.heartbeat_at
        )
        if dead.update(
            state=OperationState.FAILED,
            error_code="worker_lost",
            message=message,
            finished_at=timezone.now(),
            lease=None,
        ):
            close_children(row, OperationState.FAILED, message)

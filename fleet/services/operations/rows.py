"""Rows of operations: begun once, found and shown. Which ones are the same is in `fleet.operations`."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from fleet.models import Operation, Placement
from fleet.operations import ACTIVE, GROUPS, OperationKind, OperationState, OperationView, is_same, rules_of
from fleet.services import audit
from fleet.services.operations.task_queue import enqueue
from neuron.wire import ApiError

MAX_INSERTS = 5


def wish(kind: OperationKind, **columns: Any) -> Operation:
    """An operation as it is asked for, not saved yet."""
    row = Operation(kind=kind, **columns)
    if not rules_of(kind).chooses_node:
        row.node = row.wanted_node
    return row


def begin(asked: Operation) -> Operation:
    """The active operation that is the same; else `asked`, saved, and announced to a worker if it is a root.

    Raises `ApiError` 409 while one that excludes it is active.
    """
    for _ in range(MAX_INSERTS):
        if row := under_way(asked):
            return row
        try:
            _insert(asked)
        except IntegrityError as error:  # another one came first: the next round finds it, if it is not over
            refused = error
        else:
            return asked
    raise refused


def under_way(asked: Operation) -> Operation | None:
    """The active operation that is the same as `asked`. Raises `ApiError` 409 if one excludes it."""
    group = rules_of(asked.kind).group
    columns = {column: getattr(asked, column) for column in group.columns}
    row: Operation | None = Operation.objects.filter(
        kind__in=GROUPS[group], state__in=ACTIVE, **columns
    ).first()
    if row is not None and not is_same(asked, row):
        message = f"The {row.subject} (#{row.pk}) is {row.state}: cancel it or wait until it is over."
        raise ApiError(409, "operation_active", message, param="node")
    return row


def _insert(asked: Operation) -> None:
    with transaction.atomic():
        asked.save(force_insert=True)
        if asked.parent_id is None:
            audit.note(asked.requested_by, asked.kind, asked.target, asked.reason, operation=asked.pk)
            transaction.on_commit(partial(enqueue, asked.pk))


def find(operation_id: int) -> Operation:
    """Raises `ApiError` 404 for an id that does not exist (any more)."""
    row: Operation | None = Operation.objects.filter(pk=operation_id).first()
    if row is None:
        raise ApiError(404, "operation_not_found", f"There is no operation {operation_id}.")
    return row


def check_retryable(row: Operation) -> None:
    """Raises `ApiError` 409 unless `row` failed, and was asked for and not a part of another operation."""
    if row.parent is not None or not rules_of(row.kind).is_retryable:
        whole = row.parent or "another operation"
        message = f"Operation {row.pk} ({row.subject}) is a part of {whole}: retry that one."
        raise ApiError(409, "operation_not_retryable", message)
    if row.state != OperationState.FAILED:
        cure = "Wait until it is over." if row.is_active else "Ask for it anew."
        message = f"Operation {row.pk} ({row.subject}) is {row.state}; only failed ones are retried. {cure}"
        raise ApiError(409, "operation_not_failed", message)


def view(row: Operation, *, eta_s: float | None = None) -> OperationView:
    return OperationView(
        id=row.pk,
        kind=str(row.kind),
        state=str(row.state),
        model=row.model,
        node=row.node,
        device=row.device,
        progress=row.progress,
        message=row.message,
        error_code=row.error_code,
        eta_s=eta_s,
    )


def remaining_s(row: Operation) -> float | None:
    """What is left of a running load, by what its node measured when it last woke the model or read its
    files, or by how long the last load took, there if possible."""
    if row.kind != OperationKind.LOAD or row.state != OperationState.RUNNING or not row.started_at:
        return None
    here: Placement | None = Placement.objects.filter(node__name=row.node, model=row.model).first()
    if here and (expected := here.arrival_s):
        since: timedelta = timezone.now() - row.started_at
        return max(0.0, expected - since.total_seconds())
    loads = Operation.objects.filter(kind=row.kind, model=row.model, state=OperationState.SUCCEEDED)
    done = loads.exclude(explanation=[]).order_by("-id")  # a node was chosen: it was not there already
    last: Operation | None = done.filter(node=row.node).first() or done.first()
    if last is None:
        return None
    due: timedelta = row.started_at + (last.finished_at - last.started_at) - timezone.now()
    return max(0.0, due.total_seconds())

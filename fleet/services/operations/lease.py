"""The right to carry an operation out: a token in its row, kept alive by heartbeats.

Every write checks the token in its WHERE clause. A worker that was given up as dead finds its lease gone at
its next write and stops, so that one worker at a time changes an operation, without a lock.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from time import monotonic
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from fleet.models import Device, Operation
from fleet.operations import OperationState, rules_of
from fleet.services.operations.task_queue import enqueue


class LeaseLostError(Exception):
    """Another worker carries the operation out now, or it is over."""


class Lease:
    """The right to carry out `operation`. Every method raises `LeaseLostError` once it is lost."""

    def __init__(self, operation: Operation, token: uuid.UUID) -> None:
        self.operation = operation
        self._token = token
        self._last_beat = monotonic()

    @classmethod
    def take(cls, operation_id: int) -> Lease | None:
        """The lease of an operation that is due, or whose holder is silent; None for any other."""
        now = timezone.now()
        token = uuid.uuid4()
        row = Operation.objects.filter(pk=operation_id)
        mine = {"state": OperationState.RUNNING, "lease": token, "heartbeat_at": now}
        due = row.filter(state=OperationState.PENDING, due_at__lte=now)
        silent = row.filter(
            state=OperationState.RUNNING,
            heartbeat_at__lt=now - timedelta(seconds=settings.LEASE_S),
            attempts__lt=settings.MAX_ATTEMPTS,
        )
        taken = due.update(**mine) or silent.update(**mine, attempts=F("attempts") + 1)
        if not taken:
            return None
        row.filter(started_at=None).update(started_at=now)
        return cls(row.get(), token)

    def note(self, **fields: Any) -> None:
        """Write fields of the row; a heartbeat too."""
        values = {**fields, "heartbeat_at": timezone.now()}
        if not self._row().update(**values):
            raise LeaseLostError
        for name, value in values.items():
            setattr(self.operation, name, value)
        self._last_beat = monotonic()

    def beat(self, progress: float | None = None) -> None:
        """Write `progress` if it moved by a percent, or a heartbeat if one is due. Cheap: call it often."""
        before = self.operation.progress
        moved = progress is not None and (before is None or abs(progress - before) >= 0.01)
        if moved:
            self.note(progress=progress)
        elif monotonic() - self._last_beat >= settings.HEARTBEAT_S:
            self.note()

    def claim(self, name: str, devices: set[int], /, **fields: Any) -> bool:
        """Take all of those devices of the node and write `fields`; False, and neither, if one is taken."""
        with transaction.atomic():
            wanted = Device.objects.filter(node__name=name, index__in=devices)
            wanted.filter(claimed_by=None).update(claimed_by=self.operation)
            if wanted.filter(claimed_by=self.operation).count() < len(devices):
                transaction.set_rollback(True)
                return False
            self.note(**fields)
        return True

    def release(self, **fields: Any) -> None:
        """Give its devices back and write `fields`."""
        with transaction.atomic():
            self.note(**fields)
            Device.objects.filter(claimed_by=self.operation).update(claimed_by=None)

    def finish(self, state: str, message: str, *, error_code: str = "") -> None:
        """Write the outcome, release the devices and end the lease; children that still run end too."""
        with transaction.atomic():
            self.release(
                state=state,
                message=message,
                error_code=error_code,
                progress=None,
                finished_at=timezone.now(),
                lease=None,
            )
            close_children(self.operation, state, message)

    def postpone(self, message: str, delay_s: float) -> None:
        """Give the operation back; it is due again after `delay_s`, and chooses its node anew."""
        due_at = timezone.now() + timedelta(seconds=delay_s)
        choice: dict[str, Any] = {}
        if rules_of(self.operation.kind).chooses_node:
            choice = {"node": "", "victims": []}
        self.release(state=OperationState.PENDING, message=message, due_at=due_at, lease=None, **choice)
        enqueue(self.operation.pk, delay_s=delay_s)

    def _row(self) -> Any:
        return Operation.objects.filter(pk=self.operation.pk, lease=self._token, state=OperationState.RUNNING)


def close_children(operation: Operation, state: str, message: str) -> None:
    """End the evictions that workers left running when they died; they end like the whole operation."""
    operation.children.filter(state=OperationState.RUNNING).update(
        state=state, message=f"over with #{operation.pk}: {message}", finished_at=timezone.now()
    )

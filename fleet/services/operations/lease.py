"""Who carries an operation out: the holder of its lease, proved alive by heartbeats in the row.

Every write checks the lease in its WHERE clause. A worker that was thought dead and taken over finds its
lease gone at its next word, and stops; so an operation has one hand at a time without any lock.
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
from fleet.operations import State, rules_of
from fleet.services.operations.task_queue import enqueue


class LeaseLostError(Exception):
    """Somebody else carries the operation out now, or it is over."""


class Lease:
    """The right to carry out `operation`. Every method raises `LeaseLostError` once it is lost."""

    def __init__(self, operation: Operation, token: uuid.UUID) -> None:
        self.operation = operation
        self._token = token
        self._last_beat = monotonic()

    @classmethod
    def take(cls, operation_id: int) -> Lease | None:
        """The lease of an operation that is due, or whose holder fell silent; else None."""
        now, token = timezone.now(), uuid.uuid4()
        row = Operation.objects.filter(pk=operation_id)
        mine = {"state": State.RUNNING, "lease": token, "heartbeat_at": now}
        silent = row.filter(state=State.RUNNING, heartbeat_at__lt=now - timedelta(seconds=settings.LEASE_S))
        taken = row.filter(state=State.PENDING, due_at__lte=now).update(**mine) or silent.filter(
            attempts__lt=settings.MAX_ATTEMPTS
        ).update(**mine, attempts=F("attempts") + 1)
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
        """Call often: it writes when progress has changed visibly or a heartbeat is due."""
        before = self.operation.progress
        moved = progress is not None and (before is None or abs(progress - before) >= 0.01)
        if moved:
            self.note(progress=progress)
        elif monotonic() - self._last_beat >= settings.HEARTBEAT_S:
            self.note()

    def claim(self, name: str, devices: set[int], /, **fields: Any) -> bool:
        """Take all of those devices and write `fields`; or nothing, if another operation has one of them."""
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
        """The last word: it ends the lease, and whatever was done on behalf of the operation."""
        with transaction.atomic():
            self.release(
                state=state,
                message=message,
                error_code=error_code,
                progress=None,
                finished_at=timezone.now(),
                lease=None,
            )
            close_children(self.operation, message)

    def postpone(self, message: str, delay_s: float) -> None:
        """Let go for a while; the operation is due again after `delay_s`."""
        due_at = timezone.now() + timedelta(seconds=delay_s)
        chosen = {"node": "", "victims": []} if rules_of(self.operation.kind).chooses_node else {}
        self.release(state=State.PENDING, message=message, due_at=due_at, lease=None, **chosen)
        enqueue(self.operation.pk, delay_s=delay_s)

    def _row(self) -> Any:
        return Operation.objects.filter(pk=self.operation.pk, lease=self._token, state=State.RUNNING)


def close_children(operation: Operation, message: str) -> None:
    """Evictions that were begun for an operation that is over are over too."""
    operation.children.filter(state=State.RUNNING).update(
        state=State.FAILED, message=message, finished_at=timezone.now()
    )

"""Batches as clients ask for them: create, show, list, cancel. `batch_runs` carries them out."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from django.utils import timezone
from kombu.exceptions import OperationalError

from fleet.batches import ACTIVE, ENDPOINTS, BatchStatus
from fleet.celery import app
from fleet.models import ApiKey, RequestBatch
from fleet.pages import page_of
from fleet.services import files
from neuron.wire import ApiError

log = logging.getLogger("cortex.batches")

Json = dict[str, Any]

WINDOW = timedelta(hours=24)
MAX_PAGE = 10_000
_TIMES = {
    BatchStatus.IN_PROGRESS: "in_progress_at",
    BatchStatus.FINALIZING: "finalizing_at",
    BatchStatus.COMPLETED: "completed_at",
    BatchStatus.FAILED: "failed_at",
    BatchStatus.EXPIRED: "expired_at",
    BatchStatus.CANCELLING: "cancelling_at",
    BatchStatus.CANCELLED: "cancelled_at",
}


def create(owner: str, *, input_file: str, endpoint: str, window: str, metadata: dict[str, str]) -> Json:
    """A batch, announced to the workers. Raises `ApiError`."""
    if endpoint not in ENDPOINTS:
        message = f"endpoint: one of {', '.join(ENDPOINTS)}."
        raise ApiError(400, "invalid_value", message, param="endpoint")
    if window != "24h":
        raise ApiError(400, "invalid_value", "completion_window: '24h'.", param="completion_window")
    if files.find(owner, input_file).purpose != "batch":
        message = "The file was not uploaded for a batch; say purpose = 'batch' when you upload it."
        raise ApiError(400, "invalid_value", message, param="input_file_id")
    row = RequestBatch.objects.create(
        id=files.new_id("batch"),
        owner=owner,
        key=ApiKey.objects.filter(digest=owner).values_list("name", flat=True).first() or "",
        endpoint=endpoint,
        input_file=input_file,
        metadata=metadata,
        expires_at=timezone.now() + WINDOW,
    )
    announce(row.id)
    return view(row)


def show(owner: str, ident: str) -> Json:
    return view(_find(owner, ident))


def listed(owner: str, after: str | None, limit: int) -> Json:
    rows = RequestBatch.objects.filter(owner=owner)[:MAX_PAGE]
    return page_of([view(row) for row in rows], after, limit)


def cancel(owner: str, ident: str) -> Json:
    """A batch that is being cancelled: what is under way ends, what was answered stays."""
    row = _find(owner, ident)
    stopping = RequestBatch.objects.filter(
        id=row.id, status__in=[BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS]
    )
    if not stopping.update(status=BatchStatus.CANCELLING, times=reached(row, BatchStatus.CANCELLING)):
        row.refresh_from_db()
        if row.status not in ACTIVE:
            raise ApiError(409, "batch_ended", f"The batch is over: {row.status}.")
    announce(row.id)
    return show(owner, ident)


def announce(ident: str) -> None:
    """Tell a worker of a batch. `batch_runs.reconcile` tells again what gets lost."""
    try:
        app.send_task("fleet.tasks.run_batch", [ident])
    except OperationalError as error:
        log.warning("batch not announced", extra={"batch": ident, "error": str(error)})


def reached(row: RequestBatch, status: BatchStatus) -> Json:
    """The times of a batch that reaches a status now."""
    return {_TIMES[status]: int(time.time()), **row.times}


def view(row: RequestBatch) -> Json:
    """A batch as OpenAI's API shows it."""
    errors = {"object": "list", "data": row.errors} if row.errors else None
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "errors": errors,
        "input_file_id": row.input_file,
        "completion_window": "24h",
        "status": row.status,
        "output_file_id": row.output_file or None,
        "error_file_id": row.error_file or None,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": int(row.expires_at.timestamp()),
        **{name: row.times.get(name) for name in _TIMES.values()},
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        "metadata": row.metadata or None,
    }


def _find(owner: str, ident: str) -> RequestBatch:
    row: RequestBatch | None = RequestBatch.objects.filter(id=ident, owner=owner).first()
    if row is None:
        raise ApiError(404, "batch_not_found", f"There is no batch {ident!r}.")
    return row

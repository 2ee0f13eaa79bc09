"""Tells a Celery worker that an operation is due.

The message carries the row's id and nothing else. Redis may be away: the row stays, and
`reconciliation.reconcile` tells again.
"""

from __future__ import annotations

import logging

from kombu.exceptions import OperationalError

from fleet.celery import OPERATIONS, app

log = logging.getLogger("cortex.operations")


def dispatch(operation_id: int, *, delay_s: float = 0) -> None:
    try:
        app.send_task(
            "fleet.tasks.run_operation", [operation_id], queue=OPERATIONS, countdown=delay_s or None
        )
    except OperationalError as error:
        log.warning("operation not announced", extra={"operation": operation_id, "error": str(error)})

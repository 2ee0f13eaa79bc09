"""The messages that tell Celery workers which operations are due.

A message carries an operation's id and nothing else. While Redis is away the row stays, and
`execution.reconcile` announces it again.
"""

from __future__ import annotations

import logging

from kombu.exceptions import OperationalError

from fleet.celery import OPERATIONS, app

log = logging.getLogger("cortex.operations")


def enqueue(operation_id: int, *, delay_s: float = 0) -> None:
    try:
        app.send_task(
            "fleet.tasks.run_operation", [operation_id], queue=OPERATIONS, countdown=delay_s or None
        )
    except OperationalError as error:
        log.warning("operation not announced", extra={"operation": operation_id, "error": str(error)})

"""The span of an operation that a traced request asked for, told when it has ended."""

from __future__ import annotations

import atexit
import logging
from functools import cache

from cortex_site.base import trace_context
from cortex_site.base.tracing import Moment, SpanRecord, Tracer, TracingError, tracer
from cortex_site.config import current
from fleet.models import Operation
from fleet.operations import OperationState

log = logging.getLogger("cortex.operations")


@cache
def _tracer() -> Tracer | None:
    """What this process sends spans with; None where traces are off or cannot be made."""
    try:
        made = tracer(current().tracing, "cortex-operations")
    except TracingError as error:
        log.warning("operations are not traced", extra={"reason": str(error)})
        return None
    if made is not None:
        atexit.register(made.close)
    return made


def tell(row: Operation) -> None:
    """Tell the span of an operation that is over, if the request that asked for it is traced."""
    parent = trace_context.read(row.traceparent)
    if parent is None or row.finished_at is None or (sends := _tracer()) is None:
        return
    begun = [Moment("begun", row.started_at.timestamp())] if row.started_at else []
    told = {"cortex.operation": row.pk, "cortex.node": row.node, "gen_ai.request.model": row.model}
    sends.tell(
        SpanRecord(
            str(row.subject),
            parent.child(),
            parent,
            row.created_at.timestamp(),
            row.finished_at.timestamp(),
            attributes={name: value for name, value in told.items() if value},
            moments=begun,
            error=str(row.message) if row.state == OperationState.FAILED else "",
        )
    )

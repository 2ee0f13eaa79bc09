"""A neuron's spans of requests, made when a request has ended, of what its log line says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from cortex_site.base import trace_context
from cortex_site.base.trace_context import TraceContext
from cortex_site.base.tracing import SpanRecord, Tracer

HEADER = trace_context.HEADER.encode()
PHASES = ("queue", "prefill", "decode")  # of an answer, one after the other, the last up to its end
_ATTRIBUTES = {
    "model": "gen_ai.request.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "finish_reason": "gen_ai.response.finish_reasons",
    "status": "http.response.status_code",
    "code": "error.type",
    "request_id": "cortex.request_id",
    "cached_tokens": "cortex.cached_tokens",
}


def tell(tracer: Tracer, given: str | None, path: str, fields: dict[str, Any], duration_s: float) -> None:
    """Tell the spans of a request that has just ended, if the header `given` says that it is traced."""
    parent = trace_context.read(given)
    if parent is not None and parent.is_sampled:
        for span in _spans(parent, path, fields, time.time(), duration_s):
            tracer.tell(span)


def _spans(
    parent: TraceContext, path: str, fields: dict[str, Any], end: float, duration_s: float
) -> Iterator[SpanRecord]:
    context = parent.child()
    told = {name: fields[field] for field, name in _ATTRIBUTES.items() if fields.get(field) is not None}
    error = str(fields.get("code", ""))
    yield SpanRecord(path, context, parent, end - duration_s, end, "server", told, (), error)
    for phase in reversed(PHASES):
        if (took_ms := fields.get(f"{phase}_ms")) is not None:
            start = end - took_ms / 1000
            yield SpanRecord(phase, context.child(), context, start, end)
            end = start

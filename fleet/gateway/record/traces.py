"""The gateway's spans of requests, made of their records.

On a request's way there is the choice whether it is traced, and a header for its node. Its spans are made in
the recorder's thread, of the row that the request left:

    server   the request, from its receipt to its last byte; moments: nodes that failed it, first token
    client   from the first request to a node on, with the id that the node was told as its parent
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cortex_site.base import trace_context
from cortex_site.base.trace_context import TraceContext
from cortex_site.base.tracing import Moment, SpanRecord, Tracer, Value

MOST_OPEN = 10_000  # requests that are traced at a time
_NONE: Mapping[str, str] = {}


class _Row(msgspec.Struct):
    """What spans say of a row; see `RequestMetric`."""

    request_id: str
    started_at: float
    model: str
    node: str
    dialect: str
    stream: bool
    status: int
    outcome: str
    error_code: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    latency_s: float
    queue_s: float
    load_s: float
    retries: int
    cold: bool
    ttft_s: float | None = None
    overhead_s: float | None = None
    finish_reason: str = ""
    attempts: list[tuple[str, str]] = []


_ID = b'{"request_id":"'  # how a row begins; an id has no letter that JSON escapes
_row = msgspec.json.Decoder(_Row)


class _Open(msgspec.Struct, frozen=True):
    parent: TraceContext | None  # the client's
    server: TraceContext
    client: TraceContext


class RequestTraces:
    """`begin` is of the event loop, `tell` of the recorder's thread; a dictionary is all that they share."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[str, _Open] = {}

    def begin(self, request_id: str, given: str | None) -> Mapping[str, str]:
        """Return the header for the node: there is one if the client sent one, or the request is traced."""
        parent = trace_context.read(given) if given else None
        if parent is None:
            if random.random() >= self._tracer.sampling:  # noqa: S311 - a sample
                return _NONE
            server = trace_context.begun(is_sampled=True)
        else:
            server = parent.child()
        client = server.child()
        if server.is_sampled and len(self._open) < MOST_OPEN:
            self._open[request_id] = _Open(parent, server, client)
            trace_context.CURRENT.set(server)  # of this request's task, and of what it starts
        return {trace_context.HEADER: str(client)}

    def tell(self, rows: Iterable[bytes]) -> None:
        """Make spans of those of the rows whose requests are traced."""
        if not self._open:
            return
        for row in rows:
            if found := self._open.pop(_request_id(row), None):
                for span in _spans(_row.decode(row), found):
                    self._tracer.tell(span)


def _request_id(row: bytes) -> str:
    """Return a row's id without decoding all of it."""
    start = len(_ID)
    return (
        row[start : row.index(b'"', start)].decode() if row.startswith(_ID) else _row.decode(row).request_id
    )


def _spans(row: _Row, at: _Open) -> Iterable[SpanRecord]:
    end = row.started_at + row.latency_s
    failed = row.error_code if row.outcome == "error" else ""
    first = [] if row.ttft_s is None else [Moment("first token", row.started_at + row.ttft_s)]
    attempts = [Moment("node failed", row.started_at, {"node": n, "error": e}) for n, e in row.attempts]
    yield SpanRecord(
        f"{row.dialect} {row.model}",
        at.server,
        at.parent,
        row.started_at,
        end,
        "server",
        _attributes(row),
        (*attempts, *first),
        failed,
    )
    if row.node:
        asked = row.started_at + row.queue_s + (row.overhead_s or 0.0)
        yield SpanRecord(
            f"ask {row.node}", at.client, at.server, asked, end, "client", {"cortex.node": row.node}
        )


def _attributes(row: _Row) -> dict[str, Value]:
    """OpenTelemetry's names for generative AI and HTTP where it has one, ours otherwise."""
    told: dict[str, Any] = {
        "gen_ai.request.model": row.model,
        "gen_ai.usage.input_tokens": row.prompt_tokens,
        "gen_ai.usage.output_tokens": row.completion_tokens,
        "gen_ai.response.finish_reasons": row.finish_reason,
        "http.response.status_code": row.status,
        "error.type": row.error_code,
        "cortex.request_id": row.request_id,
        "cortex.node": row.node,
        "cortex.outcome": row.outcome,
        "cortex.stream": row.stream,
        "cortex.cached_tokens": row.cached_tokens,
        "cortex.retries": row.retries,
        "cortex.cold": row.cold,
        "cortex.queue_s": row.queue_s,
        "cortex.load_s": row.load_s,
    }
    return {name: value for name, value in told.items() if value != ""}

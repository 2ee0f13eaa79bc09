"""W3C's header, and spans as OpenTelemetry's SDK sends them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError

from cortex_site.base import trace_context
from cortex_site.base.trace_context import TraceContext
from cortex_site.base.tracing import Moment, SpanRecord, Tracer, TracingSettings, tracer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read(trace_id: int, span_id: int, is_sampled: bool):
    context = TraceContext(trace_id, span_id, is_sampled)
    assert trace_context.read(str(context)) == context


@given(st.text())
def test_any_text_is_read_or_means_nothing(text: str):
    found = trace_context.read(text)
    assert found is None or trace_context.read(str(found)) == found


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        PARENT[:-1],
        PARENT.upper(),
        f"{PARENT}-more",  # version 00 has no more
        f"ff{PARENT[2:]}",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    ],
)
def test_what_the_standard_calls_invalid_is_passed_over(value: str | None):
    assert trace_context.read(value) is None


def test_later_versions_may_have_more():
    found = trace_context.read(f"cc{PARENT[2:]}-what-comes")
    assert found is not None
    assert found.is_sampled
    assert str(found) == PARENT


def test_a_child_is_another_span_of_the_same_trace():
    parent = trace_context.begun(is_sampled=True)
    child = parent.child()
    assert (child.trace_id, child.is_sampled) == (parent.trace_id, True)
    assert child.span_id != parent.span_id


def test_spans_have_the_ids_times_and_kinds_that_were_told():
    exporter = InMemorySpanExporter()
    sends = Tracer(TracingSettings(endpoint="http://localhost:4318/v1/traces"), "gateway", exporter=exporter)
    parent = trace_context.read(PARENT)
    assert parent is not None
    context = parent.child()
    moments = (Moment("first token", 10.5),)
    sends.tell(
        SpanRecord(
            "chat m", context, parent, 10.0, 12.0, "server", {"cortex.node": "n"}, moments, "node_lost"
        )
    )
    sends.close()
    (span,) = exporter.get_finished_spans()
    assert (span.context.trace_id, span.context.span_id) == (context.trace_id, context.span_id)
    assert span.parent.span_id == parent.span_id
    assert (span.start_time, span.end_time) == (10_000_000_000, 12_000_000_000)
    assert (span.kind.name, span.status.status_code.name) == ("SERVER", "ERROR")
    assert span.events[0].timestamp == 10_500_000_000
    assert span.resource.attributes["service.name"] == "gateway"
    assert span.attributes["cortex.node"] == "n"


def test_without_a_collector_there_is_no_tracer():
    assert tracer(TracingSettings(), "gateway") is None


def test_a_collector_is_an_http_url():
    with pytest.raises(ValidationError, match="endpoint"):
        TracingSettings(endpoint="localhost:4318")

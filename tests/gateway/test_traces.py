"""What is traced, what nodes are told, and the spans that come of records."""

from __future__ import annotations

import msgspec
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cortex_site.base import trace_context
from cortex_site.base.tracing import Tracer, TracingSettings
from fleet.gateway.record.traces import RequestTraces

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ROW = {
    "request_id": "r",
    "started_at": 100.0,
    "model": "m",
    "node": "n",
    "dialect": "openai-chat",
    "stream": True,
    "status": 200,
    "outcome": "ok",
    "error_code": "",
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "cached_tokens": 0,
    "latency_s": 4.0,
    "queue_s": 1.0,
    "load_s": 0.5,
    "retries": 1,
    "cold": True,
    "ttft_s": 2.0,
    "overhead_s": 0.25,
    "attempts": [["gone", "node_unreachable"]],
    "notes": [],
}


class Traced:
    """Traces, and the spans that they came to."""

    def __init__(self, sampling: float) -> None:
        self._exporter = InMemorySpanExporter()
        settings = TracingSettings(endpoint="http://localhost:4318/v1/traces", sampling=sampling)
        self._tracer = Tracer(settings, "gateway", exporter=self._exporter)
        self.traces = RequestTraces(self._tracer)

    def spans(self, **row: object):
        self.traces.tell([msgspec.json.encode(ROW | row)])
        self._tracer.close()
        return {span.kind.name: span for span in self._exporter.get_finished_spans()}


def test_a_clients_trace_goes_on_to_the_node():
    traced = Traced(sampling=0.0)
    told = trace_context.read(traced.traces.begin("r", PARENT)["traceparent"])
    spans = traced.spans()
    server, client = spans["SERVER"], spans["CLIENT"]
    assert told is not None
    assert (told.trace_id, told.span_id) == (client.context.trace_id, client.context.span_id)
    assert client.parent.span_id == server.context.span_id
    assert server.parent.span_id == 0xB7AD6B7169203331
    assert (server.start_time, server.end_time) == (100_000_000_000, 104_000_000_000)
    assert client.start_time == 101_250_000_000
    assert [event.name for event in server.events] == ["node failed", "first token"]
    assert server.attributes["gen_ai.usage.output_tokens"] == 5
    assert "error.type" not in server.attributes


def test_a_trace_that_a_client_does_not_record_goes_on_and_is_not_recorded():
    traced = Traced(sampling=1.0)
    told = traced.traces.begin("r", f"{PARENT[:-2]}00")["traceparent"]
    assert told.startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert told.endswith("-00")
    assert traced.spans() == {}


@pytest.mark.parametrize(("sampling", "count"), [(0.0, 0), (1.0, 2)])
def test_requests_of_clients_that_say_nothing_are_sampled(sampling: float, count: int):
    traced = Traced(sampling)
    assert len(traced.traces.begin("r", None)) == min(count, 1)
    assert len(traced.spans()) == count


def test_a_header_that_means_nothing_begins_no_trace():
    assert Traced(sampling=0.0).traces.begin("r", "nonsense") == {}


def test_a_request_that_reached_no_node_has_one_span_with_its_error():
    traced = Traced(sampling=1.0)
    traced.traces.begin("r", None)
    spans = traced.spans(node="", outcome="error", error_code="no_capacity", status=503)
    assert list(spans) == ["SERVER"]
    assert spans["SERVER"].status.description == "no_capacity"


def test_records_of_others_are_passed_over():
    traced = Traced(sampling=1.0)
    traced.traces.begin("r", None)
    assert traced.spans(request_id="another") == {}

"""A neuron's spans: those of requests that somebody traces, with the phases of an answer."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cortex_site.base.tracing import Tracer, TracingSettings
from neuron.api import traces

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FIELDS = {
    "request_id": "r",
    "model": "m",
    "status": 200,
    "completion_tokens": 5,
    "queue_ms": 100.0,
    "prefill_ms": 300.0,
    "decode_ms": 500.0,
}


def told(given: str | None, **fields: object):
    exporter = InMemorySpanExporter()
    tracer = Tracer(TracingSettings(endpoint="http://localhost:4318/v1/traces"), "neuron", exporter=exporter)
    traces.tell(tracer, given, "/v1/chat/completions", FIELDS | fields, 1.0)
    tracer.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_an_answer_is_a_span_with_its_phases_one_after_the_other():
    spans = told(PARENT)
    whole, queue, prefill, decode = (spans[name] for name in ("/v1/chat/completions", *traces.PHASES))
    assert whole.parent.span_id == 0xB7AD6B7169203331
    assert {span.parent.span_id for span in (queue, prefill, decode)} == {whole.context.span_id}
    assert (queue.end_time, prefill.end_time, decode.end_time) == (
        prefill.start_time,
        decode.start_time,
        whole.end_time,
    )
    assert whole.end_time - whole.start_time == pytest.approx(1e9, abs=1e3)
    assert whole.attributes["gen_ai.usage.output_tokens"] == 5


def test_a_request_that_failed_says_so():
    spans = told(PARENT, code="context_length_exceeded", queue_ms=None, prefill_ms=None, decode_ms=None)
    assert list(spans) == ["/v1/chat/completions"]
    assert spans["/v1/chat/completions"].status.description == "context_length_exceeded"


@pytest.mark.parametrize("given", [None, "nonsense", f"{PARENT[:-1]}0"])
def test_what_nobody_records_has_no_span(given: str | None):
    assert told(given) == {}

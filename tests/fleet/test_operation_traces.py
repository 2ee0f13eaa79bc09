"""A load that a traced request asks for is a part of its trace, down to the node."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cortex_site.base.tracing import Tracer, TracingSettings
from fleet.models import Operation
from fleet.services import lifecycle
from fleet.services.operations import traces

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    settings = TracingSettings(endpoint="http://localhost:4318/v1/traces")
    tracer = Tracer(settings, "operations", exporter=exporter)
    monkeypatch.setattr(traces, "_tracer", lambda: tracer)

    def told():
        tracer.close()
        return exporter.get_finished_spans()

    return told


def test_a_load_is_a_span_of_the_request_that_waits_for_it(fleet, spans):
    fleet.node("a")
    fleet.model("m")
    asked = lifecycle.ensure_loaded("m", requested_by="gateway", traceparent=PARENT)
    assert fleet.run(asked.id).state == "succeeded"
    (span,) = spans()
    assert (span.name, span.parent.span_id) == ("load of m on a", 0xB7AD6B7169203331)
    assert span.attributes["cortex.node"] == "a"


def test_a_load_that_failed_says_why(fleet, spans):
    fleet.model("m")
    asked = lifecycle.ensure_loaded("m", requested_by="gateway", traceparent=PARENT)
    assert fleet.run(asked.id).state == "failed"
    assert "no node is configured" in spans()[0].status.description


def test_a_load_that_nobody_traces_has_no_span(fleet, spans):
    fleet.node("a")
    fleet.model("m")
    fleet.run(lifecycle.ensure_loaded("m", requested_by="gateway").id)
    assert spans() == ()
    assert Operation.objects.get().traceparent == ""

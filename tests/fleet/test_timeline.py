from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from fleet.models import Operation, RequestMetric
from fleet.services import timeline

SECONDS = st.floats(0, 100, allow_nan=False)


def metric(**values):
    defaults = {
        "request_id": "r",
        "started_at": timezone.now() - timedelta(minutes=5),
        "model": "m",
        "node": "beast",
        "dialect": "openai-chat",
        "stream": True,
        "status": 200,
        "outcome": "ok",
    }
    return RequestMetric(**defaults | values)


def test_the_spans_of_a_cold_request_run_from_its_load_to_its_answer():
    found = timeline.spans(
        metric(
            overhead_s=0.5, load_s=3.0, queue_s=4.0, ttft_s=5.0, latency_s=9.0,
            prompt_tokens=1200, cached_tokens=1000, completion_tokens=41, tokens_per_second=10.0,
        )
    )  # fmt: skip
    assert [(span.name, span.start_s, span.duration_s) for span in found] == [
        ("gateway", 0, 0.5),
        ("load", 0.5, 3),
        ("queue", 3.5, 1),
        ("first token", 4.5, 0.5),
        ("answer", 5, 4),
    ]
    assert found[3].note == "1,200 tokens in, 1,000 of them cached"
    assert found[4].note == "41 tokens out, 10.0 a second"


def test_the_rest_of_a_request_without_a_first_token_is_the_nodes():
    assert [p.name for p in timeline.spans(metric(queue_s=1.0, latency_s=3.0))] == ["queue", "node"]


@given(
    queue_s=SECONDS,
    load_s=SECONDS,
    overhead_s=st.none() | SECONDS,
    ttft_s=st.none() | SECONDS,
    latency_s=SECONDS,
)
def test_spans_have_no_gaps_and_never_overlap(**values):
    at = 0.0
    for span in timeline.spans(metric(**values)):
        assert span.start_s == pytest.approx(at)
        assert span.duration_s > 0
        at = span.start_s + span.duration_s


def operation(row, kind="load", model="m", *, before_s=1.0, took_s=2.0, parent=None):
    created = row.started_at - timedelta(seconds=before_s)
    return Operation.objects.create(
        kind=kind, model=model, node="beast", state="succeeded", reason="asked for", requested_by="gateway",
        created_at=created, finished_at=created + timedelta(seconds=took_s), parent=parent,
    )  # fmt: skip


def test_the_operations_that_a_request_waited_for_are_found_and_no_others(db):
    row = metric(queue_s=3.0, ttft_s=4.0, latency_s=5.0)
    load = operation(row)
    eviction = operation(row, "evict", "victim", before_s=0.5, parent=load)
    operation(row, before_s=100)
    operation(row, before_s=-3.5)
    operation(row, model="other")
    assert list(timeline.operations(row)) == [load, eviction]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"finish_reason": "length"}, "Answered in full on beast (length)."),
        ({"outcome": "cancelled", "latency_s": 2.5}, "The client left after 2.50 s, on beast."),
        (
            {"outcome": "error", "status": 503, "error_code": "node_lost"},
            "It ended with 503 node_lost, on beast.",
        ),
        (
            {"outcome": "rejected", "status": 404, "error_code": "model_not_found", "node": ""},
            "It ended with 404 model_not_found, before it reached a node.",
        ),
    ],
)
def test_the_story_says_how_a_request_ended(values, line):
    assert timeline.story(metric(**values))[-1] == line


def test_the_story_says_how_replicas_compared():
    lines = timeline.story(metric(waits_s=[["benjy", 1.4], ["beast", 0.2]]))
    assert lines[0] == "Replicas compared by the wait expected there: beast 0.20 s, benjy 1.40 s."


def test_an_id_leads_to_its_request_or_to_a_search_while_it_is_not_stored(staff, client_for):
    row = metric()
    row.save()
    page = f"/admin/fleet/requestmetric/{row.pk}/change/"
    assert staff.get(f"/admin/fleet/explained/{row.request_id}/")["location"] == page
    assert staff.get("/admin/fleet/explained/a+b/")["location"] == "/admin/fleet/requestmetric/?q=a%2Bb"
    assert "/login/" in client_for().get(f"/admin/fleet/explained/{row.request_id}/")["location"]


def test_the_page_of_a_request_shows_its_timeline(staff):
    notes = [["unenforced", "tools[0].function.parameters/pattern"]]
    row = metric(
        queue_s=3.0, load_s=3.0, ttft_s=4.0, latency_s=5.0, attempts=[["n2", "node_lost"]], notes=notes
    )
    row.save()
    load = operation(row)
    page = staff.get(f"/admin/fleet/requestmetric/{row.pk}/change/").content.decode()
    assert "n2 failed it: node_lost" in page
    assert f"/admin/fleet/logs/?match={row.request_id}" in page
    assert f"/admin/fleet/logs/?node={row.node}&amp;match={row.request_id}" in page
    assert "The node notes, unenforced: tools[0].function.parameters/pattern" in page
    assert f"/admin/fleet/operation/{load.pk}/change/" in page
    assert "the model was not loaded" in page
    assert "margin-left: 60.00%; width: 20.00%" in page

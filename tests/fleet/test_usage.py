from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.admin import paging
from fleet.models import RequestMetric, UsageDay, UsageRollup
from fleet.services import retention, usage

pytestmark = pytest.mark.usefixtures("db")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def metric(minutes: float, **values: object) -> None:
    defaults = {
        "request_id": f"r{minutes}",
        "model": "m",
        "node": "n",
        "dialect": "openai-chat",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "latency_s": 2.0,
        "ttft_s": 0.5,
    }
    RequestMetric.objects.create(started_at=NOON + timedelta(minutes=minutes), **defaults | values)


def sums(hours: float = 0, **group: str) -> UsageRollup:
    return UsageRollup.objects.get(hour=NOON + timedelta(hours=hours), **group)


def test_an_hour_is_summed_by_what_its_requests_have_in_common():
    metric(0)
    metric(59, outcome="error", ttft_s=None, cached_tokens=4)
    metric(30, key="other")
    metric(60)
    assert usage.roll_up() == 2
    row = sums(key="")
    assert (row.requests, row.errors, row.cancelled, row.rejected, row.timed) == (2, 1, 0, 0, 1)
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens) == (20, 10, 4)
    assert (row.latency_s, row.ttft_s) == (4.0, 0.5)
    assert sums(key="other").requests == sums(1).requests == 1


def test_late_records_are_added_and_none_counts_twice():
    metric(0)
    metric(60)
    usage.roll_up()
    metric(10)
    metric(70)
    metric(130)
    assert usage.roll_up() == 3
    assert [sums(hour).requests for hour in (0, 1, 2)] == [2, 2, 1]


def test_long_silence_is_skipped_and_a_backlog_taken_in_parts(monkeypatch):
    monkeypatch.setattr(usage, "MAX_HOURS", 3)
    for day in range(0, 30, 10):
        metric(day * 24 * 60)
    metric(60)
    assert usage.roll_up() == 3
    assert usage.roll_up() == 1 + 1  # the last hour again, and what was left
    assert UsageRollup.objects.count() == 4


def days(**group: str) -> dict[date, int]:
    """The requests of each day."""
    return dict(UsageDay.objects.filter(**group).order_by("day").values_list("day", "requests"))


def test_days_are_summed_from_their_hours():
    metric(0)
    metric(60, cached_tokens=4, dialect="anthropic")
    metric(11 * 60 + 59, outcome="error")
    metric(12 * 60)
    metric(0, key="other")
    usage.roll_up()
    assert days(key="") == {date(2026, 3, 1): 3, date(2026, 3, 2): 1}
    assert days(key="other") == {date(2026, 3, 1): 1}
    row = UsageDay.objects.get(day=date(2026, 3, 1), key="")
    counts = (row.errors, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
    assert counts == (1, 30, 4, 15)


def test_a_record_that_comes_after_midnight_counts_for_its_day():
    metric(12 * 60)
    usage.roll_up()
    metric(12 * 60 - 1)
    usage.roll_up()
    usage.roll_up()
    assert days() == {date(2026, 3, 1): 1, date(2026, 3, 2): 1}


def test_hours_that_an_older_version_summed_get_their_days():
    for day in (0, 1, 40):
        metric(day * 24 * 60)
    usage.roll_up()
    UsageDay.objects.all().delete()
    usage.roll_up()
    assert days() == {date(2026, 3, 1): 1, date(2026, 3, 2): 1, date(2026, 4, 10): 1}


def test_sums_outlive_their_requests():
    metric(0)
    usage.roll_up()
    retention.prune()
    assert not RequestMetric.objects.exists()
    assert UsageRollup.objects.count() == 1
    usage.roll_up()
    assert sums().requests == 1
    assert days() == {date(2026, 3, 1): 1}
    UsageRollup.objects.update(hour=NOON - timedelta(days=800))
    UsageDay.objects.update(day=NOON - timedelta(days=800))
    retention.prune()
    assert not UsageRollup.objects.exists()
    assert not UsageDay.objects.exists()


def test_the_usage_page_adds_up_what_is_shown(staff):
    metric(0, prompt_tokens=1_000_000)
    metric(0, model="other")
    usage.roll_up()
    page = staff.get("/admin/fleet/usagerollup/").content.decode()
    assert "<strong>1,000,010</strong> prompt tokens" in page
    for asked in ("q=other", "model=other", "since=week&model=other", "hour__lt=2030-01-01T00:00Z&q=other"):
        page = staff.get(f"/admin/fleet/usagerollup/?{asked}").content.decode()
        shown = 0 if "since" in asked else 10
        assert f"<strong>{shown}</strong> prompt tokens" in page


def test_pages_end_and_a_link_goes_on_with_older_rows(staff, monkeypatch):
    monkeypatch.setattr(paging, "REACH", 4)
    for minute in range(7):
        metric(minute)
    first = staff.get("/admin/fleet/requestmetric/?outcome=ok")
    listed = first.content.decode()
    assert "r6" in listed
    assert "more than 4 requests" in listed
    assert "Older than these" in listed
    older = staff.get("/admin/fleet/requestmetric/" + first.context_data["older"])
    assert [row.request_id for row in older.context_data["cl"].result_list] == ["r2", "r1", "r0"]
    assert "Older than these" not in older.content.decode()
    assert "more than" not in older.content.decode()


@pytest.mark.parametrize(("rows", "said"), [(4, "4 results"), (5, "more than 4 results")])
def test_a_search_says_how_many_there_are_as_far_as_it_counted(staff, monkeypatch, rows, said):
    monkeypatch.setattr(paging, "REACH", 4)
    for minute in range(rows):
        metric(minute)
    page = staff.get("/admin/fleet/requestmetric/?q=m").content.decode()
    assert f">{said} " in page
    assert ("Older than these" in page) == (rows > 4)


def test_request_pages_never_count_or_scan_the_whole_table(staff):
    metric(0)
    with CaptureQueriesContext(connection) as seen:
        staff.get("/admin/fleet/requestmetric/?since=day&outcome=ok&model=m&node=n")
    on_table = [query["sql"] for query in seen if "fleet_requestmetric" in query["sql"]]
    counts = [sql for sql in on_table if "COUNT" in sql]
    assert counts
    assert all("LIMIT" in sql for sql in counts)
    assert not any("DISTINCT" in sql for sql in on_table)

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from fleet.models import RequestMetric, TrafficSample
from fleet.services import traffic
from fleet.services.traffic import SPANS, percentile, series

pytestmark = pytest.mark.usefixtures("db")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = NOON + timedelta(minutes=30, seconds=30)


def metric(minutes: float, **values: object) -> None:
    defaults = {
        "request_id": f"r{minutes}",
        "model": "m",
        "dialect": "openai-chat",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "prompt_tokens": 60,
        "completion_tokens": 30,
        "ttft_s": 0.5,
        "tokens_per_second": 100.0,
        "queue_s": 0.25,
    }
    RequestMetric.objects.create(started_at=NOON + timedelta(minutes=minutes), **defaults | values)


def test_a_minute_is_summed_and_plotted_where_it_was():
    metric(28.5)
    metric(28.9, outcome="error", cold=True, ttft_s=None, tokens_per_second=None, queue_s=0.75)
    traffic.sum_up(NOW)
    plotted = series(SPANS["hour"], NOW)
    at = plotted["start"].index((NOON + timedelta(minutes=28)).timestamp())
    assert {len(values) for values in plotted.values()} == {60}
    assert plotted["requests"][at] == pytest.approx(2 / 60)
    assert plotted["errors"][at] == pytest.approx(1 / 60)
    assert plotted["prompt_tokens"][at] == pytest.approx(2)
    assert plotted["cold"][at] == 1
    assert plotted["queue"][at] == pytest.approx(0.5)
    assert plotted["first_token_p50"][at] == pytest.approx(0.5, rel=0.1)
    assert plotted["token_gap_p95"][at] == pytest.approx(0.01, rel=0.1)
    assert (plotted["requests"][at - 1], plotted["queue"][at - 1], plotted["first_token_p50"][at - 1]) == (
        0,
        None,
        None,
    )


def test_late_records_are_added_and_none_counts_twice():
    metric(25)
    traffic.sum_up(NOW)
    metric(25.5)
    traffic.sum_up(NOW + timedelta(minutes=1))
    sums = TrafficSample.objects.values_list("width_s", "requests")
    assert sorted(sums) == [(60, 2), (3600, 2)]


def test_a_pause_is_caught_up():
    metric(1)
    traffic.sum_up(NOON + timedelta(minutes=2))
    metric(3)
    metric(75)
    traffic.sum_up(NOON + timedelta(minutes=100))
    sums = TrafficSample.objects.values_list("width_s", "requests")
    assert sorted(sums) == [(60, 1), (60, 1), (60, 1), (3600, 1), (3600, 2)]


@pytest.mark.parametrize(
    ("name", "points", "width"), [("hour", 60, 60), ("day", 96, 900), ("week", 168, 3600)]
)
def test_a_span_has_its_points_and_ends_with_one_that_is_over(name, points, width):
    metric(20)
    traffic.sum_up(NOON + timedelta(minutes=29))
    later = NOON + timedelta(minutes=60)
    starts = series(SPANS[name], later)["start"]
    assert len(starts) == points
    assert width <= later.timestamp() - starts[-1] < 2 * width
    assert {second - first for first, second in pairwise(starts)} == {width}
    assert sum(value > 0 for value in series(SPANS[name], later)["requests"]) == 1


def test_old_samples_are_dropped():
    TrafficSample.objects.create(
        start=NOW - timedelta(days=2),
        width_s=60,
        requests=1,
        errors=0,
        rejected=0,
        cold=0,
        prompt_tokens=0,
        completion_tokens=0,
        queue_s=0,
    )
    traffic.sum_up(NOW)
    assert not TrafficSample.objects.exists()


def test_a_percentile_is_where_that_share_of_the_durations_ends():
    sizes = {str(bucket): 1 for bucket in range(100)}
    assert percentile(sizes, 0.5) == pytest.approx(traffic.STEP**49.5)
    assert percentile(sizes, 1.0) == pytest.approx(traffic.STEP**99.5)
    assert percentile({}, 0.5) is None

"""Sums of requests by the minute and by the hour, and the series that the home page plots of them.

A minute is summed from the requests' rows and an hour from its minutes: no page reads requests, and a run
reads those of the last ten minutes. Percentiles come from counts by size: a duration is in bucket
⌊log(seconds) / log(STEP)⌋, so a percentile is known to within 10 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.functions import Coalesce, Floor, Ln, TruncMinute
from django.utils import timezone

from fleet.models import RequestMetric, TrafficSample

MINUTE_S, HOUR_S = 60, 3600
STEP = 1.2  # from one bucket's bounds to the next one's
LATE_S = 10 * MINUTE_S  # how far back a run sums again, for requests that were long or stored late
LEAST_S = 1e-6  # a shorter duration counts as this
KEPT_S = {MINUTE_S: 25 * HOUR_S, HOUR_S: 5 * 7 * 24 * HOUR_S}

_SUMS = {
    "requests": Count("pk"),
    "errors": Count("pk", filter=Q(outcome="error")),
    "rejected": Count("pk", filter=Q(outcome="rejected")),
    "cold": Count("pk", filter=Q(cold=True)),
    "prompt_tokens": Coalesce(Sum("prompt_tokens"), 0),
    "completion_tokens": Coalesce(Sum("completion_tokens"), 0),
    "queue_s": Coalesce(Sum("queue_s"), 0.0),
}
COUNTED = tuple(_SUMS)
BY_SIZE = ("first_token", "token_gap")


@dataclass(frozen=True, slots=True)
class Span:
    """A time that is plotted: `points` of `point_s` each, read from samples of `width_s`."""

    width_s: int
    point_s: int
    points: int


SPANS = {
    "hour": Span(MINUTE_S, MINUTE_S, 60),
    "day": Span(MINUTE_S, 15 * MINUTE_S, 96),
    "week": Span(HOUR_S, HOUR_S, 168),
}


def sum_up(now: datetime | None = None) -> None:
    """Sum the minutes since the last one that was summed, those of `LATE_S` again; drop old samples."""
    now = now or timezone.now()
    minutes = _minutes_since(_first_to_sum(now))
    for minute in minutes:
        _sum_minute(minute)
    for hour in {_floor(minute, HOUR_S) for minute in minutes}:
        _sum_hour(hour)
    for width_s, kept_s in KEPT_S.items():
        old = now - timedelta(seconds=kept_s)
        TrafficSample.objects.filter(width_s=width_s, start__lt=old).delete()


def _first_to_sum(now: datetime) -> datetime:
    late = now - timedelta(seconds=LATE_S)
    summed = TrafficSample.objects.filter(width_s=MINUTE_S).order_by("-start")
    last: datetime | None = summed.values_list("start", flat=True).first()
    return max(min(last or late, late), now - timedelta(seconds=KEPT_S[MINUTE_S]))


def _minutes_since(first: datetime) -> list[datetime]:
    """Return the minutes in which requests began."""
    rows = RequestMetric.objects.filter(started_at__gte=_floor(first, MINUTE_S))
    minutes = rows.annotate(minute=TruncMinute("started_at")).order_by("minute")
    return list(minutes.values_list("minute", flat=True).distinct())


def _sum_minute(start: datetime) -> None:
    end = start + timedelta(seconds=MINUTE_S)
    rows = RequestMetric.objects.order_by().filter(started_at__gte=start, started_at__lt=end)
    sums = rows.aggregate(**{f"sum_{name}": expression for name, expression in _SUMS.items()})
    values = {name.removeprefix("sum_"): value for name, value in sums.items()}
    values["first_token"] = _buckets(rows.filter(ttft_s__gt=LEAST_S).annotate(size=F("ttft_s")))
    gaps = rows.filter(tokens_per_second__gt=0).annotate(size=1.0 / F("tokens_per_second"))
    values["token_gap"] = _buckets(gaps)
    _store(start, MINUTE_S, values)


def _sum_hour(start: datetime) -> None:
    end = start + timedelta(seconds=HOUR_S)
    minutes = list(TrafficSample.objects.filter(width_s=MINUTE_S, start__gte=start, start__lt=end))
    if minutes:
        _store(start, HOUR_S, _total(minutes))


def _store(start: datetime, width_s: int, values: dict[str, Any]) -> None:
    with transaction.atomic():
        TrafficSample.objects.update_or_create(start=start, width_s=width_s, defaults=values)


def _total(samples: Sequence[TrafficSample]) -> dict[str, Any]:
    """Return the fields of a sample of all their times together."""
    sums = {name: sum(getattr(sample, name) for sample in samples) for name in COUNTED}
    counts = {name: _together(getattr(sample, name) for sample in samples) for name in BY_SIZE}
    return sums | counts


def _buckets(rows: QuerySet) -> dict[str, int]:
    bucket = Floor(Ln(F("size")) / math.log(STEP))
    counted = rows.annotate(bucket=bucket).values("bucket").annotate(count=Count("pk"))
    return {str(int(row["bucket"])): row["count"] for row in counted}


def percentile(buckets: Mapping[str, int], share: float) -> float | None:
    """Return the seconds below which that share of the counted durations is; None where none is counted."""
    left = share * sum(buckets.values())
    for bucket, count in sorted((int(bucket), count) for bucket, count in buckets.items()):
        left -= count
        if left <= 0:
            return float(STEP ** (bucket + 0.5))
    return None


def series(span: Span, now: datetime | None = None) -> dict[str, Sequence[float | None]]:
    """Return what is plotted, by name: a value for each point, oldest first; `start` is in Unix seconds.

    Rates are per second. None where there were no requests to say. The last point is one that is over.
    """
    last = _floor(now or timezone.now(), span.point_s) - timedelta(seconds=span.point_s)
    first = last - timedelta(seconds=span.point_s * (span.points - 1))
    groups: dict[datetime, list[TrafficSample]] = {
        first + timedelta(seconds=index * span.point_s): [] for index in range(span.points)
    }
    for sample in TrafficSample.objects.filter(width_s=span.width_s, start__gte=first).order_by("start"):
        start = _floor(sample.start, span.point_s)
        if start in groups:
            groups[start].append(sample)
    points = [_point(start, groups[start], span.point_s) for start in groups]
    return {name: [point[name] for point in points] for name in points[0]}


def _point(start: datetime, samples: Sequence[TrafficSample], seconds: int) -> dict[str, float | None]:
    total = _total(samples)
    requests, first_token, token_gap = total["requests"], total["first_token"], total["token_gap"]
    return {
        "start": start.timestamp(),
        "requests": requests / seconds,
        "errors": total["errors"] / seconds,
        "rejected": total["rejected"] / seconds,
        "cold": total["cold"],
        "prompt_tokens": total["prompt_tokens"] / seconds,
        "completion_tokens": total["completion_tokens"] / seconds,
        "queue": total["queue_s"] / requests if requests else None,
        "first_token_p50": percentile(first_token, 0.5),
        "first_token_p95": percentile(first_token, 0.95),
        "token_gap_p50": percentile(token_gap, 0.5),
        "token_gap_p95": percentile(token_gap, 0.95),
    }


def _together(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _floor(moment: datetime, width_s: int) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() // width_s * width_s, tz=moment.tzinfo)

"""Hourly and daily sums of finished requests, small enough to be kept for years."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, F, Model, Q, Sum
from django.db.models.functions import Coalesce, TruncDate, TruncHour

from fleet.models import RequestMetric, UsageDay, UsageRollup

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LATE = HOUR  # a record that is stored later than this after its request began is not summed
MAX_HOURS = 24 * 7  # per run

GROUP = ("model", "node", "key", "dialect")
_SUMS = {
    "requests": Count("pk"),
    "errors": Count("pk", filter=Q(outcome="error")),
    "cancelled": Count("pk", filter=Q(outcome="cancelled")),
    "rejected": Count("pk", filter=Q(outcome="rejected")),
    "cold": Count("pk", filter=Q(cold=True)),
    "prompt_tokens": Sum("prompt_tokens"),
    "completion_tokens": Sum("completion_tokens"),
    "cached_tokens": Sum("cached_tokens"),
    "latency_s": Sum("latency_s"),
    "ttft_s": Coalesce(Sum("ttft_s"), 0.0),
    "timed": Count("ttft_s"),
    "generated": Coalesce(Sum("completion_tokens", filter=Q(tokens_per_second__gt=0)), 0),
    "generated_s": Coalesce(
        Sum(F("completion_tokens") / F("tokens_per_second"), filter=Q(tokens_per_second__gt=0)), 0.0
    ),
}
DAY_GROUP = ("model", "node", "key")
DAY_SUMS = ("requests", "errors", "prompt_tokens", "completion_tokens", "cached_tokens")


def roll_up() -> int:
    """Sum up hours, then days, since the last ones that were summed, and return how many hours.

    The last hour and day and the ones before them are summed again, for records that came late.
    """
    hours = _hours_to_sum()
    for hour in hours:
        _sum_hour(hour)
    for day in _days_to_sum():
        _sum_day(day)
    return len(hours)


def _hours_to_sum() -> list[datetime]:
    """Return the hours with requests, the earliest `MAX_HOURS` of them."""
    metrics = RequestMetric.objects.all()
    last = UsageRollup.objects.order_by("-hour").values_list("hour", flat=True).first()
    if last is not None:
        metrics = metrics.filter(started_at__gte=last - LATE)
    hours = metrics.annotate(of_hour=TruncHour("started_at")).order_by("of_hour")
    return list(hours.values_list("of_hour", flat=True).distinct()[:MAX_HOURS])


def _days_to_sum() -> list[date]:
    """Return the days with hours; all of them where none was ever summed."""
    rollups = UsageRollup.objects.all()
    last = UsageDay.objects.order_by("-day").values_list("day", flat=True).first()
    if last is not None:
        rollups = rollups.filter(hour__gte=_midnight(last) - DAY)
    days = rollups.annotate(of_day=TruncDate("hour")).order_by("of_day")
    return list(days.values_list("of_day", flat=True).distinct())


def _sum_hour(hour: datetime) -> None:
    metrics = RequestMetric.objects.filter(started_at__gte=hour, started_at__lt=hour + HOUR)
    sums = {f"sum_{name}": expression for name, expression in _SUMS.items()}
    _replace(UsageRollup, {"hour": hour}, metrics.order_by().values(*GROUP).annotate(**sums))


def _sum_day(day: date) -> None:
    begin = _midnight(day)
    rollups = UsageRollup.objects.filter(hour__gte=begin, hour__lt=begin + DAY)
    sums = {f"sum_{name}": Sum(name) for name in DAY_SUMS}
    _replace(UsageDay, {"day": day}, rollups.order_by().values(*DAY_GROUP).annotate(**sums))


def _replace(kind: type[Model], when: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]) -> None:
    """Put the groups' sums in the place of the rows of that time."""
    rows = [
        kind(**when, **{name.removeprefix("sum_"): value for name, value in group.items()})
        for group in groups
    ]
    with transaction.atomic():
        kind.objects.filter(**when).delete()
        kind.objects.bulk_create(rows, batch_size=500)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)

"""Hourly sums of finished requests, small enough to be kept for years."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Coalesce, TruncHour

from fleet.models import RequestMetric, UsageRollup

HOUR = timedelta(hours=1)
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
TOTALS = tuple(_SUMS)


def roll_up() -> int:
    """Sum up every hour with requests since the last one that was summed, and return how many.

    That one and the one before it are summed again, for records that came late.
    """
    metrics = RequestMetric.objects.all()
    last = UsageRollup.objects.order_by("-hour").values_list("hour", flat=True).first()
    if last is not None:
        metrics = metrics.filter(started_at__gte=last - LATE)
    hours = metrics.annotate(hour=TruncHour("started_at")).order_by("hour").values_list("hour", flat=True)
    found = list(hours.distinct()[:MAX_HOURS])
    for hour in found:
        _roll_up(hour)
    return len(found)


def _roll_up(hour: datetime) -> None:
    """Replace the sums of one hour."""
    metrics = RequestMetric.objects.filter(started_at__gte=hour, started_at__lt=hour + HOUR)
    sums = {f"sum_{name}": expression for name, expression in _SUMS.items()}
    rows = [
        UsageRollup(hour=hour, **{name.removeprefix("sum_"): value for name, value in group.items()})
        for group in metrics.order_by().values(*GROUP).annotate(**sums)
    ]
    with transaction.atomic():
        UsageRollup.objects.filter(hour=hour).delete()
        UsageRollup.objects.bulk_create(rows, batch_size=500)

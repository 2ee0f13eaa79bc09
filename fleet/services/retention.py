"""Deletes rows that are older than `[retention]` keeps them."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import QuerySet
from django.utils import timezone

from cortex_site.config import current
from fleet.batches import ACTIVE as UNFINISHED
from fleet.models import AuditEntry, Operation, RequestBatch, RequestMetric, UsageDay, UsageRollup
from fleet.operations import ACTIVE
from fleet.services import files, session_keys

CHUNK = 5_000  # rows per statement, between which other writers get their turn


def prune() -> int:
    """Delete old rows and return how many."""
    keep = current().retention
    now = timezone.now()
    metrics_before = now - timedelta(days=keep.request_metrics_days)
    operations_before = now - timedelta(days=keep.operations_days)
    metrics = RequestMetric.objects.filter(started_at__lt=metrics_before)
    operations = Operation.objects.filter(created_at__lt=operations_before).exclude(state__in=ACTIVE)
    usage_before = now - timedelta(days=keep.usage_days)
    hours = UsageRollup.objects.filter(hour__lt=usage_before)
    days = UsageDay.objects.filter(day__lt=usage_before.date())
    audit = AuditEntry.objects.filter(at__lt=now - timedelta(days=keep.audit_days))
    batches = RequestBatch.objects.filter(created_at__lt=operations_before).exclude(status__in=UNFINISHED)
    deleted = sum(_delete(rows) for rows in (metrics, operations, hours, days, audit, batches))
    return deleted + files.prune() + session_keys.prune()


def _delete(rows: QuerySet) -> int:
    total = 0
    while ids := list(rows.order_by("pk").values_list("pk", flat=True)[:CHUNK]):
        rows.model.objects.filter(pk__in=ids).delete()
        total += len(ids)
    return total

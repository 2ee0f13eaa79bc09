"""Finished requests, from the data plane's queue into rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from django.db.models import Q

from fleet.models import Placement, RequestMetric
from fleet.records import RequestRecord
from fleet.services.connection import connected


@connected
def store(batch: Sequence[RequestRecord]) -> None:
    """Write a batch at once, and note on the placements that they were used."""
    RequestMetric.objects.bulk_create([_row(record) for record in batch], batch_size=500)
    last_used: dict[tuple[str, str], float] = {}
    for record in batch:
        ended = record.started_at + record.latency_s
        place = record.model, record.node
        last_used[place] = max(last_used.get(place, 0), ended)
    for (model, node), ended in last_used.items():
        when = datetime.fromtimestamp(ended, UTC)
        Placement.objects.filter(
            Q(last_used_at=None) | Q(last_used_at__lt=when), model=model, node__name=node
        ).update(last_used_at=when)


def _row(record: RequestRecord) -> RequestMetric:
    values = asdict(record) | {
        "started_at": datetime.fromtimestamp(record.started_at, UTC),
        "tokens_per_second": record.tokens_per_second,
    }
    return RequestMetric(**values)

"""Finished requests, from the data plane's queue into rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.db.models import CharField, Q, QuerySet

from fleet.models import ApiKey, Placement, RequestMetric
from fleet.records import RequestRecord
from fleet.services.connection import connected

T = TypeVar("T")


@connected
def store(batch: Sequence[RequestRecord]) -> None:
    """Write a batch at once, and note on placements and keys that they were used."""
    RequestMetric.objects.bulk_create([_row(record) for record in batch], batch_size=500)
    for (model, node), when in _last_end(batch, lambda record: (_text(record.model), record.node)).items():
        _mark_used(Placement.objects.filter(model=model, node__name=node), when)
    for key, when in _last_end(batch, lambda record: record.key).items():
        _mark_used(ApiKey.objects.filter(name=key), when)


def _last_end(batch: Sequence[RequestRecord], of: Callable[[RequestRecord], T]) -> dict[T, datetime]:
    """When the last request of each group ended."""
    ends: dict[T, float] = {}
    for record in batch:
        group = of(record)
        ends[group] = max(ends.get(group, 0), record.started_at + record.latency_s)
    return {group: datetime.fromtimestamp(end, UTC) for group, end in ends.items()}


def _mark_used(rows: QuerySet[Any], when: datetime) -> None:
    rows.filter(Q(last_used_at=None) | Q(last_used_at__lt=when)).update(last_used_at=when)


def _row(record: RequestRecord) -> RequestMetric:
    values = record.as_dict() | {
        "started_at": datetime.fromtimestamp(record.started_at, UTC),
        "tokens_per_second": record.tokens_per_second,
    }
    for name, longest in _MAX_LENGTH.items():
        values[name] = _text(values[name])[:longest]
    values["attempts"] = [[node, _text(code)] for node, code in record.attempts]
    return RequestMetric(**values)


def _text(value: str) -> str:
    """As any database takes it: clients choose names of models, and one bad row would hold up a batch."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


_MAX_LENGTH = {
    field.name: field.max_length
    for field in RequestMetric._meta.get_fields()  # noqa: SLF001 - Django documents `_meta`
    if isinstance(field, CharField)
}

"""Finished requests, from the data plane's queue into rows.

A batch is one statement with one parameter, a JSON array that the database takes apart: on the data plane's
side a row costs some microseconds, where the ORM takes a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
from django.db import connection
from django.db.models import CharField, Q, QuerySet

from fleet.models import ApiKey, Placement, RequestMetric
from fleet.records import RequestRecord, unhurried
from fleet.services.connection import connected

T = TypeVar("T")


@connected
def store(batch: Sequence[RequestRecord]) -> None:
    """Write a batch at once, and note on placements and keys that they were used."""
    _insert(batch)
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


def _insert(batch: Sequence[RequestRecord]) -> None:
    rows = msgspec.json.encode([_row(record) for record in unhurried(batch)]).decode()
    with connection.cursor() as cursor:
        cursor.execute(_statement(connection.vendor), [rows])


@cache
def _statement(vendor: str) -> str:
    """Inserts what a JSON array of rows holds, in the order of `_FIELDS`."""
    table = connection.ops.quote_name(RequestMetric._meta.db_table)  # noqa: SLF001 - Django documents `_meta`
    columns = ", ".join(connection.ops.quote_name(field.column) for field in _FIELDS)
    if vendor == "postgresql":
        values = [f"(row ->> {at})::{field.db_type(connection)}" for at, field in enumerate(_FIELDS)]
        source = "json_array_elements(%s::json) AS row"
    else:
        values = [f"value ->> {at}" for at in range(len(_FIELDS))]
        source = "json_each(%s)"
    return f"INSERT INTO {table} ({columns}) SELECT {', '.join(values)} FROM {source}"  # noqa: S608 - our names


def _row(record: RequestRecord) -> list[Any]:
    row = [*_values(record)]
    for at, longest in _MAX_LENGTHS:
        row[at] = _text(row[at])[:longest]
    row[_ATTEMPTS] = [[node, _text(code)] for node, code in record.attempts]
    row[_STARTED] = connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(record.started_at, UTC))
    return row


def _text(value: str) -> str:
    """As any database takes it: clients choose names of models, and one bad row would hold up a batch."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


_FIELDS = [field for field in RequestMetric._meta.concrete_fields if not field.primary_key]  # noqa: SLF001 - see above
_NAMES = [field.name for field in _FIELDS]
_values = attrgetter(*_NAMES)
_STARTED, _ATTEMPTS = _NAMES.index("started_at"), _NAMES.index("attempts")
_MAX_LENGTHS = [(at, field.max_length) for at, field in enumerate(_FIELDS) if isinstance(field, CharField)]

"""Finished requests, from the data plane's queue into rows.

A batch is one statement with one parameter, a JSON array that the database takes apart: on the data plane's
side a row costs a microsecond or two, where the ORM takes a hundred.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
from django.db import connection
from django.db.models import CharField, DateTimeField, Field, Q, QuerySet

from fleet.models import ApiKey, Placement, RequestMetric
from fleet.records import RequestRecord
from fleet.services.connection import connected

RECORDS_AT_A_TIME = 32  # are written as JSON without a break, in which the event loop waits: some 50 µs
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")  # and no escaped backslash before it


@connected
def store(batch: Sequence[RequestRecord]) -> None:
    """Write a batch at once, and note on placements and keys that they were used."""
    _insert(batch)
    ended = sorted(batch, key=_end)  # what follows keeps the last of each kind
    for record in {(record.model, record.node): record for record in ended}.values():
        _mark_used(Placement.objects.filter(model=_text(record.model), node__name=record.node), record)
    for record in {record.key: record for record in ended}.values():
        _mark_used(ApiKey.objects.filter(name=record.key), record)


def _end(record: RequestRecord) -> float:
    return record.started_at + record.latency_s


def _mark_used(rows: QuerySet[Any], last: RequestRecord) -> None:
    when = datetime.fromtimestamp(_end(last), UTC)
    rows.filter(Q(last_used_at=None) | Q(last_used_at__lt=when)).update(last_used_at=when)


def _insert(batch: Sequence[RequestRecord]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_statement(connection.vendor), [_array(batch)])


def _array(batch: Sequence[RequestRecord]) -> str:
    """The records in JSON, without NULs."""
    starts = range(0, len(batch), RECORDS_AT_A_TIME)
    parts = [msgspec.json.encode(batch[at : at + RECORDS_AT_A_TIME])[1:-1] for at in starts]
    array = b"[%b]" % b",".join(parts)
    return (_NUL.sub(rb"\1\\ufffd", array) if b"\\u0000" in array else array).decode()


@cache
def _statement(vendor: str) -> str:
    """Inserts what a JSON array of records holds."""
    table = connection.ops.quote_name(RequestMetric._meta.db_table)  # noqa: SLF001 - Django documents `_meta`
    fields = [field for field in RequestMetric._meta.concrete_fields if not field.primary_key]  # noqa: SLF001
    columns = ", ".join(connection.ops.quote_name(field.column) for field in fields)
    values, source = (_in_postgresql if vendor == "postgresql" else _in_sqlite)(fields)
    return f"INSERT INTO {table} ({columns}) SELECT {values} FROM {source}"  # noqa: S608 - our names


def _in_postgresql(fields: Sequence[Field[Any, Any]]) -> tuple[str, str]:
    """Values for the fields, and where they come from."""
    types = {CharField: "text", DateTimeField: "double precision"}
    typed = [f'"{field.name}" {types.get(type(field)) or field.db_type(connection)}' for field in fields]
    values = [_converted(field, f'"{field.name}"', "to_timestamp({})") for field in fields]
    return ", ".join(values), f"json_to_recordset(%s::json) AS record({', '.join(typed)})"


def _in_sqlite(fields: Sequence[Field[Any, Any]]) -> tuple[str, str]:
    time = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', {}, 'unixepoch')"
    values = [_converted(field, f"value ->> '{field.name}'", time) for field in fields]
    return ", ".join(values), "json_each(%s)"


def _converted(field: Field[Any, Any], value: str, time: str) -> str:
    if isinstance(field, CharField):
        return f"substr({value}, 1, {field.max_length})"
    return time.format(value) if isinstance(field, DateTimeField) else value


def _text(value: str) -> str:
    """As any database takes it: clients choose names of models, and one bad row would hold up a batch."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")

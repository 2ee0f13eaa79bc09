"""Stores the records of finished requests, which the data plane queues.

A batch is one statement with one parameter, a JSON array that the database takes apart: a row costs the data
plane a microsecond or two, a hundred with the ORM.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
from django.db import connection
from django.db.models import CharField, DateTimeField, Field, Model

from fleet.models import ApiKey, Node, Placement, RequestMetric
from fleet.records import RequestRecord
from fleet.services.database import connected

RECORDS_AT_A_TIME = 32  # encoded in one call, for which the event loop waits: some 50 µs
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")  # unless the backslash is escaped itself


@connected
def store(batch: Sequence[RequestRecord]) -> None:
    """Write a batch, and move `last_used_at` of its placements and keys."""
    ended = sorted(batch, key=_end)  # of each placement and key the last record wins below
    placements = {(record.model, record.node): _end(record) for record in ended if record.node}
    api_keys = {(record.key,): _end(record) for record in ended if record.key}
    with connection.cursor() as cursor:
        cursor.execute(_statement(connection.vendor), [_array(batch)])
        for mark, used in ((_mark_placement(), placements), (_mark_key(), api_keys)):
            for names, at in used.items():
                when = connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(at, UTC))
                cursor.execute(mark, [when, when, *map(_text, names)])


def _end(record: RequestRecord) -> float:
    return record.started_at + record.latency_s


def _mark_placement() -> str:
    node = f"SELECT id FROM {_table(Node)} WHERE name = %s"  # noqa: S608 - our names
    return _mark(Placement, f"model = %s AND node_id IN ({node})")


def _mark_key() -> str:
    return _mark(ApiKey, "name = %s")


def _mark(model: type[Model], which: str) -> str:
    """The statement that moves `last_used_at` forward; the ORM takes half a millisecond to build it."""
    older = "(last_used_at IS NULL OR last_used_at < %s)"
    return f"UPDATE {_table(model)} SET last_used_at = %s WHERE {older} AND {which}"  # noqa: S608 - our names


def _table(model: type[Model]) -> str:
    return str(connection.ops.quote_name(model._meta.db_table))  # noqa: SLF001 - Django documents `_meta`


def _array(batch: Sequence[RequestRecord]) -> str:
    """The records as a JSON array, without NULs, which PostgreSQL refuses."""
    starts = range(0, len(batch), RECORDS_AT_A_TIME)
    parts = [msgspec.json.encode(batch[at : at + RECORDS_AT_A_TIME])[1:-1] for at in starts]
    array = b"[%b]" % b",".join(parts)
    if b"\\u0000" in array:
        array = _NUL.sub(rb"\1\\ufffd", array)
    return array.decode()


@cache
def _statement(vendor: str) -> str:
    """The statement that inserts a JSON array of records."""
    fields = [field for field in RequestMetric._meta.concrete_fields if not field.primary_key]  # noqa: SLF001
    columns = ", ".join(connection.ops.quote_name(field.column) for field in fields)
    select = _in_postgresql if vendor == "postgresql" else _in_sqlite
    values, source = select(fields)
    return f"INSERT INTO {_table(RequestMetric)} ({columns}) SELECT {values} FROM {source}"  # noqa: S608 - our names


def _in_postgresql(fields: Sequence[Field[Any, Any]]) -> tuple[str, str]:
    """Expressions for the fields, and the table function that they select from."""
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
    if isinstance(field, DateTimeField):
        return time.format(value)
    return value


def _text(value: str) -> str:
    """The text without NULs: clients choose model names, and one that is refused would hold up its batch."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")

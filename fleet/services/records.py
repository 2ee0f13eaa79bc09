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
from django.db.models import CharField, DateTimeField, Field, Model

from fleet.models import ApiKey, Node, Placement, RequestMetric
from fleet.records import RequestRecord
from fleet.services.database import connected

RECORDS_AT_A_TIME = 32  # are written as JSON without a break, in which the event loop waits: some 50 µs
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")  # and no escaped backslash before it


@connected
def store(batch: Sequence[RequestRecord]) -> None:
    """Write a batch at once, and note on placements and keys that they were used."""
    ended = sorted(batch, key=_end)  # what follows keeps the last of each kind
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
    """Moves `last_used_at` forward; the ORM takes half a millisecond to say so each time."""
    older = "(last_used_at IS NULL OR last_used_at < %s)"
    return f"UPDATE {_table(model)} SET last_used_at = %s WHERE {older} AND {which}"  # noqa: S608 - our names


def _table(model: type[Model]) -> str:
    return str(connection.ops.quote_name(model._meta.db_table))  # noqa: SLF001 - Django documents `_meta`


def _array(batch: Sequence[RequestRecord]) -> str:
    """The records in JSON, without NULs."""
    starts = range(0, len(batch), RECORDS_AT_A_TIME)
    parts = [msgspec.json.encode(batch[at : at + RECORDS_AT_A_TIME])[1:-1] for at in starts]
    array = b"[%b]" % b",".join(parts)
    return (_NUL.sub(rb"\1\\ufffd", array) if b"\\u0000" in array else array).decode()


@cache
def _statement(vendor: str) -> str:
    """Inserts what a JSON array of records holds."""
    fields = [field for field in RequestMetric._meta.concrete_fields if not field.primary_key]  # noqa: SLF001
    columns = ", ".join(connection.ops.quote_name(field.column) for field in fields)
    values, source = (_in_postgresql if vendor == "postgresql" else _in_sqlite)(fields)
    return f"INSERT INTO {_table(RequestMetric)} ({columns}) SELECT {values} FROM {source}"  # noqa: S608 - our names


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

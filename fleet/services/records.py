"""Stores the records of finished requests, which the data plane queues as JSON.

A batch is one statement with one parameter, a JSON array that the database takes apart: a row costs the data
plane a microsecond or two, a hundred with the ORM. When its keys and placements were last used is a statement
each; of a key to the minute, so that most batches write none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from django.db import connection
from django.db.models import CharField, DateTimeField, Field, Model

from fleet.models import ApiKey, Node, Placement, RequestMetric
from fleet.services.database import connected

KEYS_S = 60  # between two marks of one key


class _Use(msgspec.Struct):
    """What a record says of the key and the placement that it used."""

    key: str
    model: str
    node: str
    started_at: float
    latency_s: float


_use = msgspec.json.Decoder(_Use)


@connected
def store(rows: Sequence[bytes]) -> None:
    """Write a batch, and move `last_used_at` of its placements and keys."""
    placements: dict[tuple[str, str], float] = {}
    keys: dict[tuple[str], float] = {}
    for use in map(_use.decode, rows):
        ended = use.started_at + use.latency_s
        if use.node:
            placements[use.model, use.node] = max(ended, placements.get((use.model, use.node), 0.0))
        if use.key:
            keys[use.key,] = max(ended, keys.get((use.key,), 0.0))
    vendor = connection.vendor
    with connection.cursor() as cursor:
        cursor.execute(_insertion(vendor), [_array(rows)])
        for statement, used in ((_placements_used(vendor), placements), (_keys_used(vendor), keys)):
            if used:
                cursor.execute(
                    statement, [msgspec.json.encode([(*who, at) for who, at in used.items()]).decode()]
                )


def _array(rows: Sequence[bytes]) -> str:
    return f"[{b','.join(rows).decode()}]"


@cache
def _insertion(vendor: str) -> str:
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
    values = [_converted(field, f'"{field.name}"', _TIMES["postgresql"]) for field in fields]
    return ", ".join(values), f"json_to_recordset(%s::json) AS record({', '.join(typed)})"


def _in_sqlite(fields: Sequence[Field[Any, Any]]) -> tuple[str, str]:
    values = [_converted(field, f"value ->> '{field.name}'", _TIMES["sqlite"]) for field in fields]
    return ", ".join(values), "json_each(%s)"


_TIMES = {
    "postgresql": "to_timestamp({}::double precision)",
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', {}, 'unixepoch')",
}


def _converted(field: Field[Any, Any], value: str, time: str) -> str:
    if isinstance(field, CharField):
        return f"substr({value}, 1, {field.max_length})"
    if isinstance(field, DateTimeField):
        return time.format(value)
    return value


@cache
def _placements_used(vendor: str) -> str:
    """The statement that marks placements as used: of a JSON array of model, node, time."""
    node = f"node_id IN (SELECT id FROM {_table(Node)} WHERE name = value ->> 1)"  # noqa: S608 - our names
    return _marking(vendor, Placement, f"model = value ->> 0 AND {node}", "value ->> 2")


@cache
def _keys_used(vendor: str) -> str:
    """The statement that marks keys as used: of a JSON array of name, time."""
    return _marking(vendor, ApiKey, "name = value ->> 0", "value ->> 1", KEYS_S)


def _marking(vendor: str, model: type[Model], which: str, time: str, apart_s: int = 0) -> str:
    """Rows that another worker marks at this moment are left to it: its time is about the same."""
    at = _TIMES[vendor].format(f"({time})")
    least = _TIMES[vendor].format(f"(CAST({time} AS double precision) - {apart_s})")
    values, lock = (
        ("json_array_elements(%s::json) AS used(value)", " FOR UPDATE OF marked SKIP LOCKED")
        if vendor == "postgresql"
        else ("json_each(%s)", "")
    )
    older = f"(last_used_at IS NULL OR last_used_at < {least})"
    table = _table(model)
    return (
        f"UPDATE {table} SET last_used_at = found.at FROM (SELECT marked.id AS found_id, {at} AS at "  # noqa: S608 - our names
        f"FROM {values} JOIN {table} AS marked ON {which} WHERE {older}{lock}) AS found WHERE id = found_id"
    )


def _table(model: type[Model]) -> str:
    return str(connection.ops.quote_name(model._meta.db_table))  # noqa: SLF001 - Django documents `_meta`

"""The database of a large fleet: nodes, models, keys, operations, and a month of finished requests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

MONTH_S = 30 * 86_400
KEYS, OPERATIONS = 20, 5000
# What all finished requests have in common, beside their columns' defaults.
_SAME: dict[str, Any] = {
    "dialect": "openai-chat", "stream": True, "status": 200, "prompt_tokens": 1000, "completion_tokens": 200,
    "cached_tokens": 800, "ttft_s": 0.3, "latency_s": 5.0, "tokens_per_second": 42.0, "overhead_s": 0.001,
    "finish_reason": "stop",
}  # fmt: skip


@contextmanager
def django_on_postgres(folder: Path) -> Iterator[None]:
    """Django, set up on a fresh PostgreSQL and a fresh Redis in `folder`."""
    import django  # noqa: PLC0415 - configured by the environment below

    from tests.fleet.servers import RedisServer, postgres  # noqa: PLC0415

    with ExitStack() as stack:
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.stop)
        os.environ |= {
            "CORTEX_STATE_DIR": str(folder),
            "CORTEX_DATABASE__URL": stack.enter_context(postgres(folder)),
            "CORTEX_REDIS__URL": redis.url,
            "DJANGO_SETTINGS_MODULE": "cortex_site.site.settings",
            "PROMETHEUS_MULTIPROC_DIR": str(folder),
        }
        django.setup()
        from django.core.management import call_command  # noqa: PLC0415
        from django.db import connections  # noqa: PLC0415

        stack.callback(connections.close_all)
        call_command("migrate", verbosity=0)
        yield


def fill(ports: list[int], models: int, rows: int) -> None:
    """Store a node for each of `ports`, `models` models, and `rows` finished requests."""
    from fleet.models import Alias, ModelProfile, Node, Operation  # noqa: PLC0415
    from fleet.services import keys, usage  # noqa: PLC0415

    Node.objects.bulk_create(
        Node(name=f"node-{i}", endpoint=f"http://127.0.0.1:{port}") for i, port in enumerate(ports)
    )
    ModelProfile.objects.bulk_create(ModelProfile(model_id=f"model-{i}") for i in range(models))
    Alias.objects.bulk_create(Alias(name=f"alias-{i}", target=f"model-{i}") for i in range(models))
    for i in range(KEYS):
        keys.create(f"key-{i}")
    Operation.objects.bulk_create(
        Operation(kind="load", model=f"model-{i % models}", node=f"node-{i % len(ports)}", state="succeeded")
        for i in range(min(OPERATIONS, rows))
    )
    _store_requests(len(ports), models, rows)
    while usage.roll_up() > 2:
        pass


def _store_requests(nodes: int, models: int, rows: int) -> None:
    """One statement: a row for each number of a series. Columns that nobody names here get their defaults."""
    from django.db import connection  # noqa: PLC0415

    from fleet.models import RequestMetric  # noqa: PLC0415

    expressions = {
        "request_id": "'request-' || i",
        "started_at": f"now() - i * interval '1 second' * {MONTH_S / max(rows, 1)}",
        "model": f"'model-' || mod(i, {models})",
        "node": f"'node-' || mod(i, {nodes})",
        "key": f"'key-' || mod(i, {KEYS})",
        "outcome": "case mod(i, 97) when 0 then 'error' else 'ok' end",
    }
    constants: dict[str, Any] = {}
    for field in RequestMetric._meta.concrete_fields:  # noqa: SLF001 - documented
        if not field.primary_key and field.column not in expressions:
            value = _SAME.get(field.column, field.get_default())
            constants[field.column] = field.get_db_prep_save(value, connection)
    table = connection.ops.quote_name(RequestMetric._meta.db_table)  # noqa: SLF001
    values = [*expressions.values(), *("%s" for _ in constants)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"insert into {table} ({', '.join([*expressions, *constants])}) "  # noqa: S608 - constants of ours
            f"select {', '.join(values)} from generate_series(1, {rows}) i",
            list(constants.values()),
        )
        cursor.execute("analyze")

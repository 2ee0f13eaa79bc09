"""What a fleet of 200 nodes costs its control plane and its router.

    python -m bench.fleet [--nodes 200] [--models 50] [--rows 1000000] [--json] [--out DIR]

Real PostgreSQL, nodes that are sockets on the loopback interface of another process. Prints a table, or with
`--json` one JSON object as its last line:

    route_us        CPU time of one routing decision, microseconds
    admin_page_ms   the slowest list page of the admin, second visit, wall time; `pages` has all of them
    poll_cycle_s    asking every node once and writing down what each said
    status_ms       what the live page and `cortex status` read
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.fleet.nodes import serve

LISTS = ("live", "node", "device", "placement", "operation", "modelprofile", "alias", "apikey", "usagerollup")
REQUESTS = (
    "",
    "?outcome=error",
    "?model=model-7&since=day",
    "?key=key-3&node=node-11",
    "?q=request-77",
    "?p=60",
)
PAGES = (*(f"fleet/{name}/" for name in LISTS), *(f"fleet/requestmetric/{query}" for query in REQUESTS))
MONTH_S = 30 * 86_400
REPLICAS = 8  # nodes that have a model, in the routing figure


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="cx-") as name, _django(Path(name)):
        figures = _measure(arguments)
    if arguments.out:
        path = arguments.out / "fleet.json"
        path.write_text(json.dumps(figures, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:20} {value}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--rows", type=int, default=1_000_000, help="finished requests in the database")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for fleet.json")
    return parser.parse_args()


@contextmanager
def _django(folder: Path) -> Iterator[None]:
    """Django on a fresh PostgreSQL."""
    import django  # noqa: PLC0415 - configured by the environment below

    from tests.fleet.servers import postgres  # noqa: PLC0415

    with postgres(folder) as url:
        os.environ |= {
            "CORTEX_STATE_DIR": str(folder),
            "CORTEX_DATABASE__URL": url,
            "DJANGO_SETTINGS_MODULE": "cortex_site.settings",
            "PROMETHEUS_MULTIPROC_DIR": str(folder),
        }
        django.setup()
        from django.core.management import call_command  # noqa: PLC0415
        from django.db import connections  # noqa: PLC0415

        call_command("migrate", verbosity=0)
        try:
            yield
        finally:
            connections.close_all()


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"nodes": arguments.nodes, "models": arguments.models, "rows": arguments.rows}
    figures |= _routing(arguments.nodes, arguments.models)
    ports = get_context("spawn").Queue()
    fleet = get_context("spawn").Process(
        target=serve, args=(arguments.nodes, arguments.models, ports), daemon=True
    )
    fleet.start()
    try:
        _fill(ports.get(timeout=60), arguments.models, arguments.rows)
        figures["poll_cycle_s"] = round(_polling(), 2)
    finally:
        fleet.kill()
        fleet.join()
    figures |= _pages()
    return figures


def _routing(nodes: int, models: int) -> dict[str, float]:
    from fleet import router  # noqa: PLC0415
    from fleet.snapshot import Configuration, FleetSnapshot, ModelView, NodeConfig, NodeView  # noqa: PLC0415

    names = [f"model-{i}" for i in range(models)]
    homes = {name: {(7 * i + 13 * j) % nodes for j in range(REPLICAS)} for i, name in enumerate(names)}
    configs = {f"node-{i}": NodeConfig(f"node-{i}", f"http://host-{i}:13131") for i in range(nodes)}
    views = {
        node: NodeView(
            config,
            healthy=True,
            models={name: ModelView(name, "loaded", running=i % 10) for name in names if i in homes[name]},
        )
        for i, (node, config) in enumerate(configs.items())
    }
    snapshot = FleetSnapshot(Configuration(1, nodes=configs), views)
    wanted = [names[i % len(names)] for i in range(20_000)]
    in_flight = dict.fromkeys(views, 3).__getitem__
    started = time.process_time()
    for name in wanted:
        router.choose(snapshot, router.Facts(name, in_flight))
    return {"route_us": round((time.process_time() - started) / len(wanted) * 1e6, 2)}


# What all requests in the database have in common.
_SAME = {
    "dialect": "openai-chat", "stream": True, "status": 200, "error_code": "", "prompt_tokens": 1000,
    "completion_tokens": 200, "cached_tokens": 800, "ttft_s": 0.3, "latency_s": 5.0, "queue_s": 0.0,
    "tokens_per_second": 42.0, "cold": False, "retries": 0, "load_s": 0.0, "overhead_s": 0.001,
    "finish_reason": "stop", "attempts": "[]",
}  # fmt: skip


def _fill(ports: list[int], models: int, rows: int) -> None:
    """Nodes as configured, models, keys, operations, and `rows` finished requests over the last month."""
    from django.db import connection  # noqa: PLC0415

    from fleet.models import Alias, ModelProfile, Node, Operation  # noqa: PLC0415
    from fleet.services import keys, usage  # noqa: PLC0415

    Node.objects.bulk_create(
        Node(name=f"node-{i}", endpoint=f"http://127.0.0.1:{port}") for i, port in enumerate(ports)
    )
    ModelProfile.objects.bulk_create(ModelProfile(model_id=f"model-{i}") for i in range(models))
    Alias.objects.bulk_create(Alias(name=f"alias-{i}", target=f"model-{i}") for i in range(models))
    for i in range(20):
        keys.create(f"key-{i}")
    Operation.objects.bulk_create(
        Operation(kind="load", model=f"model-{i % models}", node=f"node-{i % len(ports)}", state="succeeded")
        for i in range(5000)
    )
    from fleet.models import RequestMetric  # noqa: PLC0415

    columns = {
        "request_id": "'request-' || i",
        "started_at": f"now() - i * interval '1 second' * {MONTH_S / max(rows, 1)}",
        "model": f"'model-' || i % {models}",
        "node": f"'node-' || i % {len(ports)}",
        "key": "'key-' || i % 20",
        "outcome": "case i % 97 when 0 then 'error' else 'ok' end",
        **{name: f"'{value}'" for name, value in _SAME.items()},
    }
    table = connection.ops.quote_name(RequestMetric._meta.db_table)  # noqa: SLF001 - documented
    with connection.cursor() as cursor:
        cursor.execute(
            f"insert into {table} ({', '.join(columns)}) "  # noqa: S608 - constants of ours
            f"select {', '.join(columns.values())} from generate_series(1, {rows}) i"
        )
        cursor.execute("analyze")
    while usage.roll_up() > 2:
        pass


def _polling() -> float:
    from fleet.models import Node  # noqa: PLC0415
    from fleet.services import observe  # noqa: PLC0415

    observe.poll()
    assert not Node.objects.filter(healthy=False).exists()
    return statistics.median(_seconds(observe.poll) for _ in range(3))


def _pages() -> dict[str, Any]:
    from django.contrib.auth import get_user_model  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    from fleet.api.live import _state  # noqa: PLC0415

    client = Client(headers={"host": "localhost"})
    client.force_login(get_user_model().objects.create_superuser("bench"))

    def visit(page: str) -> None:
        answer = client.get(f"/admin/{page}")
        assert answer.status_code == 200, (page, answer.status_code)

    pages = {}
    for page in PAGES:
        visit(page)  # templates are read and compiled once
        median = statistics.median(_seconds(partial(visit, page)) for _ in range(5))
        pages[page] = round(1000 * median, 1)
    status = 1000 * statistics.median(_seconds(_state) for _ in range(3))
    return {"admin_page_ms": max(pages.values()), "status_ms": round(status, 1), "pages": pages}


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

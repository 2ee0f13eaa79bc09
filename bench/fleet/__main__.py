"""What a fleet of 200 nodes costs its control plane and its router: python -m bench.fleet

Real PostgreSQL and Redis; the nodes are sockets on the loopback interface, in a process of their own.

    nodes, models, rows   the size of the fleet, and the finished requests in the database
    route_us              CPU time of one routing decision, microseconds
    poll_cycle_s          asking every node once and storing what each of them says
    admin_page_ms         the slowest list page of the admin, second visit, wall time
    pages                 all of the admin's pages, milliseconds each
    status_ms             what the live page and `cortex status` read

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench import command
from bench.fleet.database import django_on_postgres, fill
from bench.fleet.nodes import serve

LISTS = ("live", "node", "device", "placement", "operation", "modelprofile", "alias", "apikey", "usagerollup")
REQUESTS = ("", "?outcome=error", "?model=model-7&since=day", "?key=key-3&node=node-11", "?q=request-77")
DEEP_PAGE = 60  # of the list of requests, 100 a page
PAGES = (*(f"fleet/{name}/" for name in LISTS), *(f"fleet/requestmetric/{query}" for query in REQUESTS))
REPLICAS = 8  # nodes that have a model, in the routing figure


def measure(run: command.Run) -> dict[str, Any]:
    sizes = run.pick((200, 50, 1_000_000), (200, 50, 200_000), (4, 4, 500))
    asked = (run.options.nodes, run.options.models, run.options.rows)
    nodes, models, rows = (size if given is None else given for given, size in zip(asked, sizes, strict=True))
    with tempfile.TemporaryDirectory(prefix="cx-") as name, django_on_postgres(Path(name)):
        return {
            "nodes": nodes,
            "models": models,
            "rows": rows,
            "route_us": _route_us(nodes, models, decisions=run.pick(20_000, 20_000, 200)),
            "poll_cycle_s": _poll_cycle_s(run, nodes, models, rows),
            **_pages(run, rows),
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--models", type=int)
    parser.add_argument("--rows", type=int, help="finished requests in the database")


def _poll_cycle_s(run: command.Run, nodes: int, models: int, rows: int) -> float:
    """Fills the database, too."""
    spawn = get_context("spawn")
    ports = spawn.Queue()
    fleet = spawn.Process(target=serve, args=(nodes, models, ports), daemon=True)
    fleet.start()
    try:
        run.say(f"storing {rows} requests …")
        fill(ports.get(timeout=60), models, rows)
        return _polling(run)
    finally:
        fleet.kill()
        fleet.join()


def _route_us(nodes: int, models: int, *, decisions: int) -> float:
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
    wanted = [names[i % len(names)] for i in range(decisions)]
    in_flight = dict.fromkeys(views, 3).__getitem__
    started = time.process_time()
    for name in wanted:
        router.choose(snapshot, router.Facts(name, in_flight))
    return (time.process_time() - started) / len(wanted) * 1e6


def _polling(run: command.Run) -> float:
    from fleet.models import Node  # noqa: PLC0415
    from fleet.services import polling  # noqa: PLC0415

    polling.poll()
    assert not Node.objects.filter(healthy=False).exists()
    return statistics.median(_seconds(polling.poll) for _ in run.budget.rounds(3, "polling"))


def _pages(run: command.Run, rows: int) -> dict[str, Any]:
    from django.contrib.auth import get_user_model  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    from fleet.services import live_state  # noqa: PLC0415

    client = Client(headers={"host": "localhost"})
    client.force_login(get_user_model().objects.create_superuser("bench"))

    def visit(page: str) -> None:
        answer = client.get(f"/admin/{page}")
        assert answer.status_code == 200, (page, answer.status_code)

    pages: dict[str, float | None] = {}
    for page in (*PAGES, f"fleet/requestmetric/?p={min(DEEP_PAGE, rows // 200)}"):
        pages[page] = None
        if run.budget.allows(page):
            visit(page)  # templates are read and compiled once
            rounds = run.budget.rounds(run.pick(5, 5, 1), page)
            pages[page] = 1000 * statistics.median(_seconds(partial(visit, page)) for _ in rounds)
    status = 1000 * statistics.median(_seconds(live_state.encoded) for _ in range(3))
    slowest = max((took for took in pages.values() if took is not None), default=None)
    return {"admin_page_ms": slowest, "status_ms": status, "pages": pages}


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    command.run("fleet", __doc__, measure, add_options=add_options)

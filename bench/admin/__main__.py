"""The admin beside a large fleet: python -m bench.admin

Real PostgreSQL and Redis, a control plane in a process of its own, 200 nodes that are polled, and a million
finished requests.

    nodes, rows           the size of the fleet, and the finished requests in the database
    page_ms_p95           of the slowest page, milliseconds over HTTP
    page_kb               the largest page with all that it loads at first, kilobytes as sent, by a browser
    axe_violations        of WCAG A and AA on all pages, wide and light, narrow and dark, by a browser
    live_cpu_share        of a core, by the control plane while a live page is open
    up_ready_s            a second start of `cortex up` until it is ready
    pages                 by page: p95 in milliseconds, kilobytes, violations

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx

from bench import command
from bench.admin.browser import Seen, look
from bench.admin.control import Control, running
from bench.admin.start import second_start_s
from bench.fleet.database import django_on_postgres, fill
from bench.fleet.nodes import serve
from bench.machine import cpu_s

LISTS = ("node", "device", "placement", "operation", "modelprofile", "alias", "apikey", "requestmetric")
MORE = ("usagerollup", "auditentry", "jointoken", "requestbatch", "storedfile")
DEEP = "fleet/requestmetric/?p=60"
PAGES = (
    "",
    *(f"fleet/{name}/" for name in (*LISTS, *MORE)),
    "fleet/requestmetric/?outcome=error",
    "fleet/requestmetric/?model=model-3&since=day",
    DEEP,
    "fleet/requestmetric/1/change/",
    "fleet/node/1/change/",
    "fleet/model/model-3/",
    "fleet/add-model/",
    "fleet/live/",
    "fleet/playground/",
    "fleet/logs/",
    *(f"fleet/usage/?by={by}&days=30" for by in ("model", "key", "node", "day")),
    "django_celery_beat/periodictask/",
    "auth/user/",
    "auth/group/",
)
MODELS = 50
DEEP_ROWS = 3_000  # with fewer there is no such page


def measure(run: command.Run) -> dict[str, Any]:
    nodes, rows = run.pick((200, 1_000_000), (200, 200_000), (4, 500))
    with (
        tempfile.TemporaryDirectory(prefix="cx-") as name,
        django_on_postgres(Path(name)),
        _nodes(nodes) as ports,
    ):
        run.say(f"storing {rows} requests …")
        fill(ports, MODELS, rows)
        _sum_traffic()
        with running(Path(name)) as control:
            pages = [page for page in PAGES if page != DEEP or rows > DEEP_ROWS]
            times = _times(run, control, pages)
            run.say(f"the slowest: {max(times, key=times.__getitem__)}, {max(times.values()):.0f} ms")
            live = _live_share(control, run.pick(20.0, 20.0, 1.0))
            run.say(f"live page: {live:.3f} of a core; now the browser …")
            seen = _looks(run, control, pages)
    by_page = {page: {"ms": ms} | _told(seen.get(page)) for page, ms in times.items()}
    return {
        "nodes": nodes,
        "rows": rows,
        "page_ms_p95": max(times.values()),
        "page_kb": max((each.kilobytes for each in seen.values()), default=None),
        "axe_violations": sum(len(each.violations) for each in seen.values()) if seen else None,
        "live_cpu_share": live,
        "up_ready_s": _up_ready_s(run),
        "pages": by_page,
    }


@contextmanager
def _nodes(count: int) -> Iterator[list[int]]:
    """Neurons that only report their state, in a process of their own; the value is their ports."""
    spawn = get_context("spawn")
    ports = spawn.Queue()
    fleet = spawn.Process(target=serve, args=(count, MODELS, ports), daemon=True)
    fleet.start()
    try:
        yield ports.get(timeout=60)
    finally:
        fleet.kill()
        fleet.join()


def _sum_traffic() -> None:
    from fleet.services import polling, traffic  # noqa: PLC0415 - Django is set up now

    polling.poll()
    traffic.sum_up()


def _times(run: command.Run, control: Control, pages: Sequence[str]) -> dict[str, float]:
    """The 95th percentile of each page, milliseconds, from the second visit on."""
    visits = run.pick(20, 10, 2)
    with control.client() as client:
        return {page: _p95(client, page, visits) for page in pages}


def _p95(client: httpx.Client, page: str, visits: int) -> float:
    took = []
    for _ in range(visits + 1):
        started = time.perf_counter()
        answer = client.get(f"/admin/{page}")
        took.append(1000 * (time.perf_counter() - started))
        assert answer.status_code == 200, (page, answer.status_code)
    return statistics.quantiles(took[1:], n=20, method="inclusive")[-1]


def _live_share(control: Control, seconds: float) -> float:
    """What the control plane takes of a core while a page is open and all nodes are polled as ever."""
    from fleet.services import polling  # noqa: PLC0415

    with control.live_page():
        polling.poll()
        time.sleep(2)  # the first state has been sent
        before, started = cpu_s([control.pid]), time.monotonic()
        while time.monotonic() - started < seconds:
            polling.poll()
            time.sleep(control.poll_interval_s)
        return (cpu_s([control.pid]) - before) / (time.monotonic() - started)


def _looks(run: command.Run, control: Control, pages: Sequence[str]) -> dict[str, Seen]:
    """What a browser saw of each page; nothing where there is none."""
    if run.size is command.Size.SMOKE:
        run.missing["browser"] = "not asked for"
        return {}
    try:
        return look(control, pages)
    except (OSError, RuntimeError) as error:
        run.missing["browser"] = str(error)
        return {}


def _up_ready_s(run: command.Run) -> float | None:
    if run.size is command.Size.SMOKE:
        run.budget.shortened.append("up_ready_s: left out")
        return None
    return second_start_s() if run.budget.allows("up_ready_s") else None


def _told(seen: Seen | None) -> dict[str, Any]:
    return {"kb": seen.kilobytes, "violations": seen.violations} if seen else {}


if __name__ == "__main__":
    command.run("admin", __doc__, measure)

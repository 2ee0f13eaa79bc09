"""`python -m fleet.background tasks` or `beat`: Celery's worker, or the clock that sends it scheduled tasks.

`celery -A fleet.celery` does the same; its command brings an interactive shell, long to import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from cortex_site.base.interpreter import favour_start

THREADS = 8


def main() -> None:
    _PROGRAMS[sys.argv[1]]()


def _tasks() -> None:
    from celery.apps.worker import Worker  # noqa: PLC0415 - after `favour_start`
    from celery.utils.nodenames import host_format  # noqa: PLC0415

    from fleet.celery import app  # noqa: PLC0415

    worker = Worker(
        app=app,
        hostname=host_format(f"tasks-{os.getpid()}@%h"),
        pool_cls="threads",
        concurrency=THREADS,
        without_gossip=True,
        without_mingle=True,
        loglevel="info",
        quiet=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


def _beat() -> None:
    from celery.apps.beat import Beat  # noqa: PLC0415

    from fleet.celery import app  # noqa: PLC0415

    Beat(app=app, loglevel="info", quiet=True).run()


_PROGRAMS: dict[str, Callable[[], None]] = {"tasks": _tasks, "beat": _beat}

if __name__ == "__main__":
    favour_start()
    main()

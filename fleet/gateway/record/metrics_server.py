"""`GET /metrics` over all data-plane workers: `python -m fleet.gateway.record.metrics_server --fd N`."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from cortex_site.base import logs


class LiveCollector(MultiProcessCollector):
    """Reads all processes' files. Counts of dead ones count, their gauges (`gauge_live*_PID.db`) do not."""

    def collect(self) -> Iterable[Metric]:
        folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
        for pid in {int(path.stem.rsplit("_", 1)[1]) for path in Path(folder).glob("gauge_live*_*.db")}:
            if not psutil.pid_exists(pid):
                mark_process_dead(pid, folder)
        found: Iterable[Metric] = super().collect()
        return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="listening socket, inherited")
    arguments = parser.parse_args(argv)
    logs.setup("info", "metrics")
    registry = CollectorRegistry(support_collectors_without_names=True)
    LiveCollector(registry)
    server = uvicorn.Server(
        uvicorn.Config(make_asgi_app(registry), log_config=None, access_log=False, lifespan="off", ws="none")
    )
    server.run(sockets=[socket.socket(fileno=arguments.fd)])


if __name__ == "__main__":
    main()

"""`GET /metrics` over all data-plane workers: `python -m fleet.gateway.metrics_server --fd N`."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from cortex_site import logs


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="listening socket, inherited")
    arguments = parser.parse_args(argv)
    logs.setup("info", "metrics")
    registry = CollectorRegistry(support_collectors_without_names=True)
    MultiProcessCollector(registry)  # reads PROMETHEUS_MULTIPROC_DIR
    server = uvicorn.Server(
        uvicorn.Config(make_asgi_app(registry), log_config=None, access_log=False, lifespan="off", ws="none")
    )
    server.run(sockets=[socket.socket(fileno=arguments.fd)])


if __name__ == "__main__":
    main()

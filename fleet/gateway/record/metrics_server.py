"""`GET /metrics` over all data-plane workers: `python -m fleet.gateway.record.metrics_server --fd N`."""

from __future__ import annotations

import argparse
import asyncio
import hmac
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
import uvicorn
from django.http import HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from cortex_site import config
from cortex_site.base import logs
from cortex_site.http.application import Application
from cortex_site.http.bounds import RequestBounds
from cortex_site.http.protocol import HTTP_PROTOCOL
from cortex_site.http.request import Request
from fleet.gateway.record.former_names import WithFormerNames

MAX_BODY_BYTES = 1 << 10  # nobody sends any


class LiveCollector(MultiProcessCollector):
    """Reads all processes' files. Counts of dead ones count, their gauges (`gauge_live*_PID.db`) do not."""

    def collect(self) -> Iterable[Metric]:
        folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
        for pid in {int(path.stem.rsplit("_", 1)[1]) for path in Path(folder).glob("gauge_live*_*.db")}:
            if not psutil.pid_exists(pid):
                mark_process_dead(pid, folder)
        found: Iterable[Metric] = super().collect()
        return found


def application(registry: CollectorRegistry, token: str | None) -> Application:
    """The application of the metrics port. With a `token`, the metrics are for whoever sends it as bearer."""
    api = NinjaAPI(title="metrics", urls_namespace="metrics", docs_url=None, openapi_url=None)

    @api.get("/metrics")
    async def metrics(request: Request) -> HttpResponse:
        if token is not None and not _has_token(request, token):
            raise HttpError(401, "The token is missing or wrong: `Authorization: Bearer <metrics_token>`.")
        encode, content_type = choose_encoder(request.header(b"accept") or "")
        content = await asyncio.to_thread(encode, registry)
        return HttpResponse(content, content_type=content_type)

    @api.get("/healthz")
    async def healthz(request: Request) -> dict[str, str]:
        return {"status": "ok"}

    return Application(api, bounds=RequestBounds(MAX_BODY_BYTES))


def _has_token(request: Request, token: str) -> bool:
    return hmac.compare_digest((request.bearer or "").encode(), token.encode())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="listening socket, inherited")
    arguments = parser.parse_args(argv)
    logs.setup("info", "metrics")
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(WithFormerNames(LiveCollector(None)))
    server = uvicorn.Server(
        uvicorn.Config(
            application(registry, config.current().gateway.metrics_token),
            http=HTTP_PROTOCOL,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
        )
    )
    server.run(sockets=[socket.socket(fileno=arguments.fd)])


if __name__ == "__main__":
    main()

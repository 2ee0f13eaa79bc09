"""A data-plane process: `python -m fleet.gateway.worker --fd N` serves the API on inherited sockets."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence

import django
import uvicorn
from django.db import connections

from cortex_site import config
from cortex_site.base import logs
from cortex_site.base.interpreter import favour_event_loop

KEEP_ALIVE_S = 75
CONNECTION_AGE_S = 60  # to the database
BACKLOG = 2048


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, nargs="+", required=True, help="listening sockets, inherited")
    parser.add_argument("--share", type=int, nargs=2, metavar=("FD", "PLACE"), help="the table of workers")
    arguments = parser.parse_args(argv)
    favour_event_loop()
    logs.setup("info", "gateway")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cortex_site.site.settings")
    django.setup()
    # After django.setup(): these need the app registry, or ninja's settings.
    from cortex_site.base.sharing import Share  # noqa: PLC0415
    from cortex_site.http.protocol import HTTP_PROTOCOL  # noqa: PLC0415
    from cortex_site.http.server import HttpServer  # noqa: PLC0415
    from fleet.control_plane import ServicesControl  # noqa: PLC0415
    from fleet.gateway.app import application  # noqa: PLC0415
    from fleet.gateway.data_plane import DataPlane  # noqa: PLC0415
    from fleet.services import records  # noqa: PLC0415

    # The threads that use the database live as long as the process, and connecting costs more than storing.
    connections.settings["default"] |= {"CONN_MAX_AGE": CONNECTION_AGE_S, "CONN_HEALTH_CHECKS": True}
    settings = config.current()
    plane = DataPlane(settings, ServicesControl(), records.store)
    server = HttpServer(
        uvicorn.Config(
            application(plane),
            loop="uvloop",
            http=HTTP_PROTOCOL,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(settings.gateway.stop_grace_s),
            backlog=BACKLOG,
        ),
        settings.gateway,
        Share(*arguments.share) if arguments.share else None,
    )
    server.run(sockets=[socket.socket(fileno=fd) for fd in arguments.fd])


if __name__ == "__main__":
    main()

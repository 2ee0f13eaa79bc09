"""`neuron serve`: the daemon of one host, from its configuration to an open port."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
import uvicorn
from pydantic import TypeAdapter

from cortex_site.base import logs
from cortex_site.base.addresses import Listen, http_url, reachable_host, split_listen
from cortex_site.base.certificate import TlsFiles
from cortex_site.base.interpreter import collect_in_small_steps, favour_event_loop
from cortex_site.base.last_lines import LastLines
from cortex_site.base.settings_file import ConfigError
from cortex_site.base.version import VERSION
from cortex_site.http.server import PLAIN, HttpServer
from neuron.api.app import build_app
from neuron.config import NeuronConfig, load_config
from neuron.daemon import Daemon
from neuron.discovery import discover

if TYPE_CHECKING:
    from neuron.membership import Membership

log = logging.getLogger("neuron")

USAGE_ERROR = 2
KEEP_ALIVE_S = 75  # gateways reuse their connections
ERROR_GRACE_S = 10  # after the grace of running answers, for errors to reach their clients

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"neuron {VERSION}")
        raise typer.Exit


@cli.callback()
def neuron(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Inference daemon of one host."""


@cli.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="neuron.toml; without one, defaults apply.")] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT; overrides the configuration's.")] = None,
    join: Annotated[str | None, typer.Option(help="URL of the cortex admin whose fleet to join.")] = None,
    token: Annotated[
        str | None, typer.Option(help="Join token; NEURON_JOIN__TOKEN keeps it off the command line.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="This node's name in the fleet; by default the host's.")
    ] = None,
) -> None:
    """Serve this host's devices until stopped."""
    try:
        settings = load_config(config)
        if listen is not None:
            settings = settings.model_copy(update={"listen": TypeAdapter(Listen).validate_python(listen)})
        options = {"url": join, "token": token, "name": name}
        given = {key: value for key, value in options.items() if value is not None}
        settings = settings.model_copy(update={"join": settings.join.model_copy(update=given)})
    except ConfigError as error:
        _give_up(*error.lines)
    except ValueError:
        _give_up(f"--listen {listen}: expected HOST:PORT, as in 127.0.0.1:13131")
    last = LastLines(settings.log_lines)
    logs.setup(settings.log_level, "neuron", last)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # neuron logs requests itself
    with _bind(settings.listen) as bound:
        _serve(settings, bound, last)


def _give_up(*lines: str) -> NoReturn:
    for line in lines:
        typer.echo(f"neuron: {line}", err=True)
    raise typer.Exit(USAGE_ERROR)


def _bind(listen: str) -> socket.socket:
    """The listening socket, bound before anything else is started."""
    host, port = split_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        _give_up(f"cannot listen on {listen}: {error.strerror or error}")


def _serve(settings: NeuronConfig, bound: socket.socket, last: LastLines) -> None:
    # After neuron.api, which configures Django: ninja reads its settings when it is imported.
    from cortex_site.http.protocol import HTTP_PROTOCOL  # noqa: PLC0415

    if (objection := settings.tls_objection()) is not None:
        _give_up(f"tls_cert, tls_key: {objection}")
    url = settings.public_url or _url(bound, tls=settings.speaks_tls)
    membership, settings = _join(settings, bound)
    host = discover(cpu_devices=settings.device.cpu_devices or 1)
    daemon = Daemon(settings, host, url=url, beside=membership.run if membership else None, last=last)
    options = uvicorn.Config(
        build_app(daemon),
        loop="uvloop",
        http=HTTP_PROTOCOL,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.stop_grace_s) + ERROR_GRACE_S,
    )
    if settings.is_exposed and settings.token is None and not settings.allow_anonymous:
        log.warning("protected mode: without a token only this machine is served")
    if host.cuda_unavailable_reason:
        log.warning("CUDA cannot be used", extra={"reason": host.cuda_unavailable_reason})
    log.info("neuron listens", extra={"url": url, "version": VERSION})
    favour_event_loop()
    collect_in_small_steps()
    server = Server(options, daemon, settings)
    server.run(sockets=[bound])
    if not server.started:
        sys.exit(1)


def _join(settings: NeuronConfig, bound: socket.socket) -> tuple[Membership | None, NeuronConfig]:
    """The membership in the configured fleet, and the settings with the secret that the fleet got."""
    fleet = settings.join
    if fleet.url is None:
        return None, settings
    if fleet.token is None:
        _give_up("--join needs --token: make one with `cortex join-token`")
    from neuron.membership import JoinRefusedError, Membership, endpoint_for  # noqa: PLC0415 - httpx takes 0.1 s

    secret = settings.token or secrets.token_urlsafe(32)
    name = fleet.name or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:100].lstrip("._-")
    try:
        endpoint = settings.public_url or endpoint_for(
            fleet.url, *bound.getsockname()[:2], tls=settings.speaks_tls
        )
        who = {"name": name, "endpoint": endpoint, "secret": secret}
        membership = Membership(fleet.url, fleet.token, **who, labels=fleet.labels)
        asyncio.run(membership.try_once())
    except JoinRefusedError as error:
        _give_up(f"cannot join {fleet.url}: {error}")
    if settings.is_exposed:
        settings = settings.model_copy(update={"token": secret})
    return membership, settings


def _url(bound: socket.socket, *, tls: bool) -> str:
    host, port = bound.getsockname()[:2]
    return http_url(reachable_host(host), port, tls=tls)


class Server(HttpServer):
    """The HTTP server. On a stop signal, running answers have the daemon's grace to end."""

    def __init__(self, config: uvicorn.Config, daemon: Daemon, tls: TlsFiles = PLAIN) -> None:
        super().__init__(config, tls)
        self._daemon = daemon

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        log.info("stopping", extra={"signal": signal.Signals(sig).name})
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.stop()

    def stop(self) -> None:
        self.should_exit = True
        self._daemon.stop()


def main() -> None:
    cli()


if __name__ == "__main__":
    main()

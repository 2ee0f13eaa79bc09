"""The `cortex` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cortex_site.base.addresses import split_listen
from cortex_site.base.settings_file import ConfigError
from cortex_site.base.version import VERSION
from cortex_site.cli import fleet, machine
from cortex_site.cli.operate import ConfigOption, HomeOption, JsonOption, file_in, settings_of
from cortex_site.config import load_catalogue, load_config
from cortex_site.config.cortex_toml import NEURON_PORT

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command. A bad configuration prints one line per mistake and exits with 2."""
    try:
        app()
    except ConfigError as error:
        for line in error.lines:
            typer.echo(f"cortex: {line}", err=True)
        sys.exit(2)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"cortex {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """One OpenAI- and Anthropic-compatible API in front of a fleet of GPU hosts."""


@app.command()
def up(
    home: HomeOption = None,
    base_port: Annotated[
        int | None,
        typer.Option(min=1, max=65532, help="Ports N (API), N+1 (metrics), N+2 (admin), N+3 (neuron)"),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; the neuron stays on loopback")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run everything on this machine: gateway, admin, Redis, one neuron and a small model."""
    from cortex_site.processes import launch  # noqa: PLC0415 - the other commands need none of it

    path = config or file_in(home, "cortex.toml")
    settings = load_config(path)
    if home:
        settings = settings.model_copy(update={"state_dir": home.absolute()})
    ports = range(base_port, base_port + 4) if base_port else (None, None, None, NEURON_PORT)
    gateway = settings.gateway
    listens = (gateway.listen, gateway.metrics_listen, gateway.admin_listen)
    moved = [_moved(listen, host, port) for listen, port in zip(listens, ports[:3], strict=True)]
    names = ("listen", "metrics_listen", "admin_listen")
    gateway = gateway.model_copy(update=dict(zip(names, moved, strict=True)))
    plan = launch.plan_up(settings.model_copy(update={"gateway": gateway}), path, f"127.0.0.1:{ports[3]}")
    sys.exit(launch.run(plan))


@app.command()
def serve(
    config: ConfigOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Data-plane processes")] = None,
) -> None:
    """Run the gateway: data plane, metrics, control plane, Celery worker and beat."""
    from cortex_site.config.contradictions import warnings  # noqa: PLC0415
    from cortex_site.processes import launch  # noqa: PLC0415 - the other commands need none of it

    settings = load_config(config)
    if workers:
        gateway = settings.gateway.model_copy(update={"workers": workers})
        settings = settings.model_copy(update={"gateway": gateway})
    for warning in warnings(settings, load_catalogue(settings)):
        typer.echo(f"cortex: warning: {warning}", err=True)
    sys.exit(launch.run(launch.plan_serve(settings, config)))


@app.command()
def status(
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show nodes, devices, models and their states, and the processes on this machine."""
    from cortex_site.cli import status as fleet_status  # noqa: PLC0415 - the other commands need none of it

    sys.exit(fleet_status.show(settings_of(config, home), as_json=as_json))


@app.command()
def check(config: Annotated[Path, typer.Option("--config", "-c", help="cortex.toml")]) -> None:
    """Validate a configuration and say what it does."""
    from cortex_site.cli.check import describe  # noqa: PLC0415 - the other commands need none of it

    settings = load_config(config)
    for line in describe(settings, load_catalogue(settings)):
        typer.echo(line)


@app.command()
def support(
    file: Annotated[Path, typer.Argument(help="To write, a .tar.gz")] = Path("cortex-support.tar.gz"),
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a file for who helps you: configuration without secrets, versions, status, last errors."""
    from cortex_site.cli.support import write  # noqa: PLC0415 - the other commands need none of it

    try:
        parts = write(settings_of(config, home), file)
    except OSError as error:
        typer.echo(f"cortex: {file}: cannot be written: {error.strerror}; name another file", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{file}: {', '.join(parts)}. Look through it before you send it.")


def _moved(listen: str, host: str | None, port: int | None) -> str:
    old_host, old_port = split_listen(listen)
    return f"{host or old_host}:{port or old_port}"


app.add_typer(machine.app)
app.add_typer(fleet.app)


if __name__ == "__main__":
    main()

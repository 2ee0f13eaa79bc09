"""Commands that look after an installation: `init`, `doctor`, `backup`, `restore`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cortex_site.cli.operate import ConfigOption, HomeOption, JsonOption, file_in, settings_of
from cortex_site.config import load_config

app = typer.Typer()


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="To write")] = Path("cortex.toml"),
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of the API")] = None,
    state_dir: Annotated[str | None, typer.Option(help="Directory of data and secrets")] = None,
    database: Annotated[str | None, typer.Option(help="postgresql://…; empty: SQLite")] = None,
    redis: Annotated[str | None, typer.Option(help="redis://… or unix://…")] = None,
    node: Annotated[str | None, typer.Option(help="URL of a neuron; empty: none yet")] = None,
) -> None:
    """Ask five questions and write a cortex.toml; options answer them, too."""
    from cortex_site.cli import init as questions  # noqa: PLC0415 - the other commands need none of it

    given = {"listen": listen, "state_dir": state_dir, "database": database, "redis": redis, "node": node}
    if file.exists():
        _give_up(f"{file} is there already; name another file, or edit it")
    text = questions.text_of(questions.ask(given))
    try:
        questions.write(file, text)
    except OSError as error:
        _give_up(f"{file}: {error.strerror}; name another file")
    load_config(file)
    typer.echo(f"{file} is written. Check what it names:  cortex doctor --config {file}")
    typer.echo(f"Then run it:  cortex serve --config {file}")


@app.command()
def doctor(home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check ports, disk, Redis, database, nodes, clocks and GPU drivers; exit code 1: it cannot run so."""
    from cortex_site.cli.doctor import diagnose  # noqa: PLC0415 - the other commands need none of it

    found = []
    for finding in diagnose(settings_of(config, home)):
        found.append(finding)
        if not as_json:
            typer.echo(str(finding))
    if as_json:
        typer.echo(json.dumps({"findings": [finding._asdict() for finding in found]}))
    if any(finding.cure and finding.fatal for finding in found):
        raise typer.Exit(1)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="To write, a .tar.gz")],
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Write database, secrets and configuration to one file, also while cortex runs."""
    from cortex_site.cli.backup import BackupError, writing  # noqa: PLC0415

    try:
        parts = writing.write(settings_of(config, home), config or file_in(home, "cortex.toml"), file)
    except BackupError as error:
        _give_up(str(error))
    typer.echo(f"{file}: {len(parts)} parts, with secrets in them.")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="That `cortex backup` wrote")],
    home: HomeOption = None,
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", help="Set aside what is there")] = False,
) -> None:
    """Bring back what a backup holds. A cortex.toml that is there stays as it is; the next start migrates."""
    from cortex_site.cli.backup import BackupError, reading  # noqa: PLC0415

    try:
        written = reading.restore(file, config, home, force=force)
    except BackupError as error:
        _give_up(str(error))
    for path in written:
        typer.echo(path)


def _give_up(reason: str) -> None:
    typer.echo(f"cortex: {reason}", err=True)
    raise typer.Exit(1)

"""PostgreSQL's own programs, run on the configured database."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from cortex_site.cli.backup import BackupError


def dump(url: str, target: Path) -> Path:
    """Write the database as it is at one moment."""
    _run("pg_dump", url, "--format=custom", "--no-owner", "--file", str(target))
    return target


def load(url: str, source: Path) -> None:
    """Replace what is there, within one transaction: all or nothing."""
    _run("pg_restore", url, "--clean", "--if-exists", "--no-owner", "--single-transaction", str(source))


def _run(program: str, url: str, *arguments: str) -> None:
    address, secret = _apart(url)
    try:
        subprocess.run(
            [program, "--dbname", address, *arguments],
            env={**os.environ, **secret},
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise BackupError(f"{program} is not on PATH; install PostgreSQL's client programs") from error
    except subprocess.CalledProcessError as error:
        raise BackupError(f"{program} ended with: {error.stderr.strip()}") from error


def _apart(url: str) -> tuple[str, dict[str, str]]:
    """The URL without its password, which a list of processes would show, and the password's variable."""
    parts = urlsplit(url)
    if parts.password is None:
        return url, {}
    user, _, place = parts.netloc.rpartition("@")
    address = urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}@{place}"))
    return address, {"PGPASSWORD": unquote(parts.password)}

"""Making a backup: also of a running cortex, whose database is copied as it was at one moment."""

from __future__ import annotations

import io
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cortex_site.base.version import VERSION
from cortex_site.cli.backup import (
    CORTEX_TOML,
    MANIFEST,
    MODELS_TOML,
    POSTGRES_DUMP,
    SQLITE,
    STATE_FILES,
    STATE_FOLDERS,
    BackupError,
    Manifest,
    postgres,
)
from cortex_site.config.cortex_toml import CortexConfig


def write(config: CortexConfig, config_path: Path | None, target: Path) -> list[str]:
    """Write the backup, which nobody else may read, and return the names of what is in it.

    Raises `BackupError`, and leaves no file then.
    """
    try:
        with _new(target) as archive, tempfile.TemporaryDirectory(dir=target.absolute().parent) as folder:
            _add(archive, MANIFEST, _manifest(config).model_dump_json(indent=2).encode())
            for name, path in _members(config, config_path, Path(folder)):
                archive.add(path, name, recursive=False)
            return archive.getnames()
    except OSError as error:
        raise BackupError(f"{error.filename or target}: {error.strerror}; name another file") from error


@contextmanager
def _new(target: Path) -> Iterator[tarfile.TarFile]:
    with target.open("xb") as file:
        try:
            target.chmod(0o600)
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                yield archive
        except BaseException:
            target.unlink()
            raise


def _manifest(config: CortexConfig) -> Manifest:
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    models = config.models_config.name if config.models_config else ""
    return Manifest(cortex=VERSION, made_at=made_at, database=_database(config), models_toml=models)


def _database(config: CortexConfig) -> Literal["sqlite", "postgresql", "none"]:
    if config.database.url:
        return "postgresql"
    return "sqlite" if (config.home / SQLITE).exists() else "none"


def _members(config: CortexConfig, config_path: Path | None, folder: Path) -> Iterator[tuple[str, Path]]:
    if config.database.url:
        yield POSTGRES_DUMP, postgres.dump(config.database.url, folder / POSTGRES_DUMP)
    elif (config.home / SQLITE).exists():
        yield SQLITE, _copy(config.home / SQLITE, folder / SQLITE)
    for name in STATE_FILES:
        if (config.home / name).is_file():
            yield f"state/{name}", config.home / name
    for name in STATE_FOLDERS:
        for path in sorted((config.home / name).rglob("*")):
            if path.is_file():
                yield f"state/{path.relative_to(config.home)}", path
    for name, settings in ((CORTEX_TOML, config_path), (MODELS_TOML, config.models_config)):
        if settings is not None and settings.is_file():
            yield name, settings


def _copy(source: Path, target: Path) -> Path:
    """What SQLite's own backup makes, beside those who write."""
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
    return target


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
    archive.addfile(info, io.BytesIO(data))

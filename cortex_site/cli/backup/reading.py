"""Bringing a backup back: into a state directory that is empty, or whose database is set aside."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import psutil
from pydantic import ValidationError

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
from cortex_site.cli.operator_api import read_state
from cortex_site.config import load_config
from cortex_site.config.cortex_toml import CortexConfig

ASIDE = ".before-restore"


def restore(source: Path, config_path: Path | None, home: Path | None, *, force: bool) -> list[str]:
    """Bring everything back and return the paths that were written.

    Settings files that are there stay as they are. `force` sets a present database and secrets aside. Raises
    `BackupError` before anything is written.
    """
    target = config_path or (home or CortexConfig().home) / "cortex.toml"
    with _opened(source) as (archive, manifest):
        _refuse(_configuration(archive, target, home), manifest, force=force)
        written = _settings(archive, manifest, target)
        config = _configuration(archive, target, home)
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.home.chmod(0o700)
        written += list(_state(archive, config.home))
        written += list(_bring_database(archive, manifest, config))
    return written


def _configuration(archive: tarfile.TarFile, target: Path, home: Path | None) -> CortexConfig:
    """The configuration that is there, else that of the archive, else the defaults."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / target.name
        if not target.is_file() and CORTEX_TOML in archive.getnames():
            _put(archive, archive.getmember(CORTEX_TOML), draft)
        config = load_config(next((path for path in (target, draft) if path.is_file()), None))
    return config.model_copy(update={"state_dir": home.absolute()}) if home else config


@contextmanager
def _opened(source: Path) -> Iterator[tuple[tarfile.TarFile, Manifest]]:
    try:
        with tarfile.open(source, "r:gz") as archive:
            manifest = Manifest.model_validate_json(_bytes(archive, MANIFEST))
            if _numbers(manifest.cortex) > _numbers(VERSION):
                raise BackupError(
                    f"{source} was made by cortex {manifest.cortex}; update this one, {VERSION}"
                )
            yield archive, manifest
    except (tarfile.TarError, EOFError, KeyError, ValidationError) as error:
        raise BackupError(f"{source} is no backup of cortex, or not all of it") from error
    except OSError as error:
        raise BackupError(f"{error.filename or source}: {error.strerror}") from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _bytes(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()


def _settings(archive: tarfile.TarFile, manifest: Manifest, target: Path) -> list[str]:
    """Write the settings files that are not there."""
    models = target.with_name(PurePosixPath(manifest.models_toml).name or "models.toml")
    places = {CORTEX_TOML: target, MODELS_TOML: models}
    found = [
        (name, path) for name, path in places.items() if name in archive.getnames() and not path.exists()
    ]
    for name, path in found:
        path.parent.mkdir(parents=True, exist_ok=True)
        _put(archive, archive.getmember(name), path)
    return [str(path) for _, path in found]


def _refuse(config: CortexConfig, manifest: Manifest, *, force: bool) -> None:
    if psutil.pid_exists(int(read_state(config.home).get("supervisor", -1))):
        raise BackupError(f"cortex runs on {config.home}; end it first")
    if (manifest.database == "postgresql") != bool(config.database.url) and manifest.database != "none":
        raise BackupError(f"the backup holds a database of {manifest.database}; set database.url accordingly")
    if not force and any((config.home / name).exists() for name in (SQLITE, "secret_key")):
        raise BackupError(f"{config.home} holds an installation; --force sets it aside")


def _state(archive: tarfile.TarFile, home: Path) -> Iterator[str]:
    for member in archive.getmembers():
        top, _, name = member.name.partition("/")
        path = PurePosixPath(name)
        known = name in STATE_FILES or (path.parts[:1] and path.parts[0] in STATE_FOLDERS)
        if top == "state" and member.isfile() and known and ".." not in path.parts:
            target = home / path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _set_aside(target)
            _put(archive, member, target)
            yield str(target)


def _bring_database(archive: tarfile.TarFile, manifest: Manifest, config: CortexConfig) -> Iterator[str]:
    if manifest.database == "sqlite":
        target = config.home / SQLITE
        for suffix in ("", "-wal", "-shm"):
            _set_aside(target.with_name(target.name + suffix))
        _put(archive, archive.getmember(SQLITE), target)
        yield str(target)
    elif manifest.database == "postgresql":
        with tempfile.TemporaryDirectory(dir=config.home) as folder:
            dump = Path(folder) / POSTGRES_DUMP
            _put(archive, archive.getmember(POSTGRES_DUMP), dump)
            postgres.load(config.database.url, dump)
        yield "the database"


def _set_aside(path: Path) -> None:
    if path.exists():
        path.replace(path.with_name(path.name + ASIDE))


def _put(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write a member under a name that we chose, for its owner alone; it appears whole or not at all."""
    source = archive.extractfile(member)
    if source is None:
        raise KeyError(member.name)
    descriptor, draft = tempfile.mkstemp(dir=target.parent)  # mode 0600
    with os.fdopen(descriptor, "wb") as file, source:
        shutil.copyfileobj(source, file)
    Path(draft).replace(target)

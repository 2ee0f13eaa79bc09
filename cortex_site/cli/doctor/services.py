"""Redis and the database: whether they answer, in time, and with what cortex needs."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from cortex_site.base.extras import lacking
from cortex_site.cli.doctor.finding import Finding, clock
from cortex_site.config.cortex_toml import CortexConfig

ANSWER_S = 5.0
OLDEST_REDIS = (6, 2)
OLDEST_POSTGRES = 14
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")


def redis_server(config: CortexConfig) -> Iterator[Finding]:
    """Whether Redis answers within `redis.timeout_ms`, is new enough, and drops nothing that it was given."""
    if objections := lacking("gateway"):
        yield _without("redis", objections[0])
        return
    import redis  # noqa: PLC0415 - of the extra `gateway`

    url = _shown(config.redis.url)
    try:
        with closing(redis.Redis.from_url(config.redis.url, socket_timeout=ANSWER_S)) as client:
            client.ping()  # connects
            began = time.monotonic()
            seconds, _ = client.time()
            took_ms = (time.monotonic() - began) * 1000
            server = client.info("server") | client.info("memory")
    except (redis.RedisError, ValueError, OSError) as error:
        cure = "start it, or set redis.url; `cortex up` brings its own"
        yield Finding("redis", f"{url} does not answer: {error}", cure)
        return
    yield from _redis_facts(server, took_ms, config)
    yield clock("redis", datetime.fromtimestamp(seconds, UTC))


def _redis_facts(server: dict[str, object], took_ms: float, config: CortexConfig) -> Iterator[Finding]:
    version = str(server["redis_version"])
    limit = config.redis.timeout_ms
    yield Finding(
        "redis",
        f"version {version} answers in {took_ms:.1f} ms",
        f"redis.timeout_ms is {limit}: limits of keys hold per worker so; move it nearer"
        if took_ms > limit
        else "",
        fatal=False,
    )
    if tuple(map(int, version.split(".")[:2])) < OLDEST_REDIS:
        yield Finding("redis", f"version {version} is too old", "6.2 or newer, or any Valkey, is needed")
    policy = str(server.get("maxmemory_policy", "noeviction"))
    if server.get("maxmemory") and policy != "noeviction":
        cure = "set maxmemory-policy noeviction, or keys lose counts and queued operations"
        yield Finding("redis", f"it drops keys when it is full ({policy})", cure, fatal=False)


def database(config: CortexConfig) -> Iterator[Finding]:
    """Whether the database answers and can be written."""
    yield from (
        _postgres(config.database.url) if config.database.url else _sqlite(config.home / "cortex.sqlite3")
    )


def _sqlite(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding("database", f"SQLite; {path} is made at the first start")
        return
    if not os.access(path, os.W_OK):
        yield Finding("database", f"{path} cannot be written", "chown it to who runs cortex")
        return
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=ANSWER_S)
        ) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        said = str(error)
    cure = "" if said == "ok" else "end cortex and bring back a backup: `cortex restore FILE`"
    yield Finding("database", f"SQLite {path}: {said}", cure)


def _postgres(url: str) -> Iterator[Finding]:
    if objections := lacking("postgres"):
        yield _without("database", objections[0])
        return
    import psycopg  # noqa: PLC0415 - an extra

    try:
        with psycopg.connect(url, connect_timeout=round(ANSWER_S)) as connection:
            version = connection.info.server_version // 10_000
            row = connection.execute(
                "SELECT now(), has_schema_privilege(current_schema(), 'CREATE'), pg_is_in_recovery()"
            ).fetchone()
    except psycopg.Error as error:
        cure = "start it, or mend database.url (user, password, name)"
        yield Finding("database", f"{_shown(url)} does not answer: {str(error).strip()}", cure)
        return
    assert row is not None
    now, may_create, is_copy = row
    yield Finding("database", f"PostgreSQL {version} answers")
    if version < OLDEST_POSTGRES:
        yield Finding("database", f"PostgreSQL {version} is too old", f"{OLDEST_POSTGRES} or newer is needed")
    if is_copy:
        yield Finding("database", "it is a read-only copy", "name the primary in database.url")
    elif not may_create:
        yield Finding("database", "its user may make no tables", "GRANT CREATE ON SCHEMA public TO that user")
    yield clock("database", now)


def _without(subject: str, objection: str) -> Finding:
    fact, _, cure = objection.partition(": ")
    return Finding(subject, fact, cure)


def _shown(url: str) -> str:
    return _CREDENTIALS.sub("", url)

"""Prepares the database before anything serves: `python -m cortex_site.site.prepare`.

Migrates it, copies the configuration files into it, and creates the default schedule and one administrator.
Running it again changes nothing. Prints one JSON object per step, for the supervisor.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import django

from cortex_site import config
from cortex_site.base import logs
from cortex_site.base.interpreter import favour_start
from cortex_site.base.settings_file import ConfigError

LOCK = 0x636F72746578  # "cortex": PostgreSQL's advisory locks are numbers


def main() -> None:
    favour_start()
    logs.setup("warning", "prepare")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cortex_site.site.settings")
    django.setup()
    # After django.setup(): these reach the app registry.
    from django.core.management import call_command  # noqa: PLC0415

    from fleet.services import schedule, settings_sync  # noqa: PLC0415

    with _one_at_a_time():
        _tell("migrating the database")
        call_command("migrate", interactive=False, verbosity=0)
        _tell("reading the configuration files")
        settings = config.current()
        settings_sync.sync_files(settings, config.load_catalogue(settings))
        schedule.ensure()
        out = io.StringIO()
        call_command("ensure_admin", stdout=out)
    _tell("ready", password=out.getvalue().strip())


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold PostgreSQL's advisory lock: gateways that start together must not migrate together."""
    from django.db import connection  # noqa: PLC0415 - after django.setup()

    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def _tell(step: str, **facts: str) -> None:
    sys.stdout.write(json.dumps({"step": step, **facts}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit("\n".join(error.lines))

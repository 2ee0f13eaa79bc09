from __future__ import annotations

import io
import stat
import threading
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command

from cortex_site.base.secret_file import obtain
from cortex_site.site.settings import database
from fleet.celery import broker_url


@pytest.mark.parametrize(
    ("url", "kombu"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("rediss://user:pw@host/1", "rediss://user:pw@host/1"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("unix:///run/redis.sock?db=2", "redis+socket:///run/redis.sock?virtual_host=2"),
    ],
)
def test_kombus_spelling_of_a_redis_url(url, kombu):
    assert broker_url(url) == kombu


def test_an_empty_url_is_sqlite_in_the_state_directory():
    found = database("", Path("/state"))
    assert (found["ENGINE"], found["NAME"]) == ("django.db.backends.sqlite3", Path("/state/cortex.sqlite3"))


def test_a_postgresql_url_with_options():
    found = database("postgresql://me:pw@db:5433/fleet?sslmode=require", Path("/state"))
    assert (found["ENGINE"], found["NAME"]) == ("django.db.backends.postgresql", "fleet")
    options = {"user": "me", "password": "pw", "host": "db", "port": "5433", "sslmode": "require"}
    assert found["OPTIONS"] == {"connect_timeout": 5, **options}


@pytest.mark.parametrize("url", ["mysql://db/fleet", "fleet.sqlite3"])
def test_another_database_is_refused(url):
    with pytest.raises(ValueError, match=r"database\.url must be postgresql://"):
        database(url, Path("/state"))


def test_secrets_are_made_once_for_their_owner(tmp_path):
    path = tmp_path / "state" / "secret"
    found = set()
    threads = [threading.Thread(target=lambda: found.add(obtain(path))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {obtain(path)}
    assert len(obtain(path)) >= 48
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_projects_own_secrets_are_private():
    assert settings.SECRET_KEY
    assert stat.S_IMODE((settings.HOME / "secret_key").stat().st_mode) == 0o600
    assert settings.DEBUG is False


@pytest.mark.usefixtures("db")
def test_models_and_migrations_agree():
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


@pytest.mark.usefixtures("db")
def test_sqlite_waits_for_its_turn_and_lets_readers_go_on(db):
    from django.db import connection

    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert cursor.execute("PRAGMA busy_timeout").fetchone() == (20_000,)
    else:
        assert connection.vendor == "postgresql"


@pytest.mark.usefixtures("db")
def test_the_administrator_is_made_once_and_the_password_works(client_for):
    out = io.StringIO()
    call_command("ensure_admin", stdout=out)
    password = out.getvalue().strip()
    assert len(password) >= 15
    form = {"username": "admin", "password": password, "next": "/admin/"}
    assert client_for().post("/admin/login/", form).status_code == 302
    again = io.StringIO()
    call_command("ensure_admin", stdout=again)
    assert again.getvalue() == ""

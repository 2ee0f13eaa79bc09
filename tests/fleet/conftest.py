from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connection, connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from cortex_site.site.settings import database
from fleet.announcements import _redis
from fleet.celery import app, broker_url
from fleet.models import ModelProfile, Node, Operation, Placement
from fleet.services import polling
from fleet.services.operations import execution
from tests.fleet.servers import RedisServer, postgres
from tests.stubs.fake_neuron import FakeNeuron

KEPT = {"django_migrations", "django_content_type", "auth_permission"}


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Short enough for the paths of unix sockets."""
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def redis_server(folder) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    with override_settings(REDIS_URL=server.url):
        _forget_connections()
        app.conf.broker_url = broker_url(server.url)
        yield server
        _forget_connections()
        app.conf.broker_url = broker_url(settings.REDIS_URL)
    server.client.close()
    server.stop()


def _forget_connections() -> None:
    _redis().close()
    _redis.cache_clear()
    app.pool.force_close_all()
    app._pool = app.amqp._producer_pool = None


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def database_url(request, folder) -> Iterator[str]:
    if request.param == "sqlite":
        yield ""
        return
    with postgres(folder) as url:
        yield url


@pytest.fixture(scope="session")
def migrated(database_url, folder) -> Iterator[str]:
    before = connections.settings["default"]
    _connect(database(database_url, folder))
    call_command("migrate", verbosity=0)
    yield database_url
    connections.close_all()
    _connect(before)


def _connect(description: dict[str, Any]) -> None:
    connections.close_all()
    connections["default"] = None  # this thread's; the next use makes one from the settings
    del connections["default"]
    connections.__dict__["settings"] = connections.configure_settings({"default": description})


@pytest.fixture
def db(migrated, redis_server) -> str:
    """An empty database and an empty Redis; the value is the database's URL (empty: SQLite)."""
    tables = [name for name in connection.introspection.table_names() if name not in KEPT]
    statements = connection.ops.sql_flush(no_style(), tables, reset_sequences=True, allow_cascade=True)
    connection.ops.execute_sql_flush(statements)
    redis_server.client.flushall()
    return migrated


class FleetUnderTest:
    """Rows, fake nodes and a stand-in for the Celery worker."""

    def __init__(self) -> None:
        self.fakes: list[FakeNeuron] = []

    def node(self, name: str, *, labels: Sequence[str] = (), **options: Any) -> FakeNeuron:
        """A fake neuron that is configured and has been polled."""
        fake = FakeNeuron(name, **options).__enter__()
        self.fakes.append(fake)
        Node.objects.create(name=name, endpoint=fake.endpoint, token=fake.token, labels=list(labels))
        polling.poll(names=[name])
        return fake

    def model(self, model_id: str = "m", **fields: Any) -> ModelProfile:
        return ModelProfile.objects.create(model_id=model_id, **fields)

    def run(self, operation_id: int) -> Operation:
        """Carry an operation out as a worker would; postponed ones until something else comes of them."""
        row = Operation.objects.get(pk=operation_id)
        for _ in range(20):
            Operation.objects.filter(pk=operation_id).update(due_at=timezone.now())
            execution.run_operation(operation_id)
            row.refresh_from_db()
            if row.state != "pending":
                break
        return row

    def start(self, operation_id: int) -> threading.Thread:
        """The same in a thread, once; join it."""

        def work() -> None:
            try:
                execution.run_operation(operation_id)
            finally:
                connections.close_all()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def orphan(self, operation_id: int) -> None:
        """What a worker leaves that was killed a while ago."""
        long_ago = timezone.now() - timedelta(seconds=settings.LEASE_S + 1)
        Operation.objects.filter(pk=operation_id).update(heartbeat_at=long_ago, lease=uuid.uuid4())

    def states(self) -> dict[str, str]:
        return {f"{row.model}@{row.node.name}": row.state for row in Placement.objects.select_related("node")}


@pytest.fixture
def fleet(db) -> Iterator[FleetUnderTest]:
    made = FleetUnderTest()
    with override_settings(LOOK_EVERY_S=0.02, MIN_RESIDENCY_S=0.0):
        yield made
    for fake in made.fakes:
        fake.stop()


@pytest.fixture
def until():
    """Wait for a state of the world that is bound to come."""

    def wait(condition, limit_s: float = 20) -> None:
        pause = threading.Event()
        for _ in range(int(limit_s / 0.02)):
            if condition():
                return
            pause.wait(0.02)
        raise AssertionError("it did not come")

    return wait


@pytest.fixture
def client_for(db):
    """Makes browsers: Django's test client under an allowed host name."""

    def make(*, headers: dict[str, str] | None = None, **options: Any) -> Client:
        return Client(headers={"host": "localhost", **(headers or {})}, **options)

    return make


@pytest.fixture
def staff(client_for) -> Client:
    browser = client_for()
    browser.force_login(get_user_model().objects.create_superuser("root"))
    return browser


@pytest.fixture
def queries():
    """How many statements something takes."""

    def count(action) -> int:
        with CaptureQueriesContext(connection) as captured:
            action()
        return len(captured)

    return count

"""From finished requests to metrics and rows: what happens when the database is slow, away or refuses."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import pytest
from prometheus_client import REGISTRY

from fleet.gateway.record import recorder as module
from fleet.gateway.record.recorder import Recorder
from tests.stubs.records import RequestRecord, entry, read

LABELS = {"model": "m", "node": "n"}


def value(name, **labels) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@contextmanager
def dropped():
    """Yields a function: how many records were dropped since."""
    before = value("cortex_records_dropped_total")
    yield lambda: value("cortex_records_dropped_total") - before


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


class Database:
    """Stores what it is given, unless it is away or one of the records is poison."""

    def __init__(self) -> None:
        self.stored: list[RequestRecord] = []
        self.away = False
        self.tries = 0
        self.slow = threading.Event()
        self.slow.set()

    def store(self, batch) -> None:
        self.tries += 1
        self.slow.wait(10)
        if self.away:
            raise ConnectionError("away")
        records = list(map(read, batch))
        if any(record.model == "poison" for record in records):
            raise ValueError("cannot be stored")
        self.stored += records


@pytest.fixture
def database():
    return Database()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "BATCH_WAIT_S", 0.02)
    monkeypatch.setattr(module, "RETRY_S", 0.02)


@contextmanager
def recording(database, **options):
    recorder = Recorder(database.store, **{"queue_size": 100, **options})
    recorder.start()
    try:
        yield recorder
    finally:
        database.slow.set()
        recorder.close(5.0)


def numbered(count, **fields):
    return [entry(f"r{number}", **fields) for number in range(count)]


def test_nothing_is_lost_while_the_database_is_away_and_metrics_go_on(database):
    database.away = True
    before = value("cortex_requests_total", **LABELS, outcome="ok", dialect="openai-chat")
    with dropped() as lost, recording(database) as recorder:
        for record in numbered(50):
            recorder.put(record)
        until(lambda: database.tries > 2)
        labels = {**LABELS, "outcome": "ok", "dialect": "openai-chat"}
        until(lambda: value("cortex_requests_total", **labels) - before == 50)
        assert recorder.waiting == 50
        database.away = False
        until(lambda: len(database.stored) == 50)
        assert [record.request_id for record in database.stored] == [f"r{n}" for n in range(50)]
        assert recorder.waiting == 0
    assert lost() == 0


def test_a_long_outage_costs_the_oldest_and_each_is_counted(database):
    database.away = True
    with dropped() as lost, recording(database, queue_size=20) as recorder:
        for record in numbered(70):
            recorder.put(record)
            until(lambda: not recorder.ledger.waiting)
        until(lambda: recorder.waiting <= 20)
        database.away = False
        until(lambda: not recorder.waiting)
    assert lost() == 50
    assert [record.request_id for record in database.stored] == [f"r{n}" for n in range(50, 70)]


def test_a_full_queue_drops_at_once_and_never_waits(database):
    database.slow.clear()
    with dropped() as lost, recording(database, queue_size=10) as recorder:
        recorder.put(entry())
        until(lambda: database.tries)  # its thread is in the database now
        for record in numbered(25):
            recorder.put(record)
        assert recorder.ledger.waiting == 10
        database.slow.set()
        until(lambda: lost() == 15)


def test_a_batch_that_cannot_be_stored_is_given_up_and_the_next_goes_on(database, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 5)
    with dropped() as lost, recording(database, retry_s=0.2) as recorder:
        for record in [entry(model="poison"), *numbered(14)]:
            recorder.put(record)
        until(lambda: not recorder.waiting)
        assert lost() + len(database.stored) == 15
        assert 1 <= lost() <= 5
        assert database.tries > 3


def test_a_stop_stores_what_is_there(database):
    with dropped() as lost:
        recorder = Recorder(database.store, queue_size=100)
        recorder.start()
        for record in numbered(30):
            recorder.put(record)
        recorder.close(5.0)
        assert len(database.stored) == 30
        assert lost() == 0


def test_a_stop_without_a_database_counts_what_is_lost(database):
    database.away = True
    with dropped() as lost:
        recorder = Recorder(database.store, queue_size=100)
        recorder.start()
        for record in numbered(30):
            recorder.put(record)
        recorder.close(5.0)
        assert lost() == 30


def test_counts_of_many_kinds_are_added_while_requests_go_on_and_at_the_end(database):
    names = [f"many-{number}" for number in range(module.MANY_KINDS)]

    def requests() -> float:
        return sum(value("cortex_spend_tokens_total", key=name) for name in names)

    with recording(database) as recorder:
        for name in names:
            recorder.put(entry(key=name, prompt_tokens=3, completion_tokens=4))
        until(lambda: requests() == 7 * len(names))
        for name in names:
            recorder.put(entry(key=name, prompt_tokens=3, completion_tokens=4))
    assert requests() == 14 * len(names)


def test_gaps_between_chunks_are_added_by_bucket(database):
    name = "cortex_inter_token_seconds"
    labels = {"model": "gaps", "node": "n"}
    with recording(database) as recorder:
        recorder.put(entry(model="gaps", gaps=[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], gaps_s=8.006))
        recorder.put(entry(model="gaps", gaps=[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], gaps_s=0.494))
        recorder.put(entry(model="gaps", gaps=[0] * 13))
        until(lambda: value(f"{name}_count", **labels) == 4)
    assert value(f"{name}_sum", **labels) == pytest.approx(8.5)
    for bound, below in (("0.001", 0), ("0.0025", 1), ("0.005", 2), ("0.5", 3), ("5.0", 3), ("+Inf", 4)):
        assert value(f"{name}_bucket", **labels, le=bound) == below


def test_models_that_nobody_knows_become_no_labels(database):
    with recording(database, queue_size=300, known=lambda model: model == "m") as recorder:
        for number in range(200):
            recorder.put(entry(model=f"guess-{number}", status=403, outcome="rejected", node=""))
        until(lambda: len(database.stored) == 200)
    assert database.stored[7].model == "guess-7"  # the row says what was asked for
    names = {
        sample.labels["model"]
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if "model" in sample.labels
    }
    assert not [name for name in names if name.startswith("guess-")]
    assert "unknown" in names

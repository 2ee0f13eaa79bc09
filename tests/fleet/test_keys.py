"""API keys in the admin and in the configuration the data plane reads."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from ext.ledger import Ledger
from fleet.gateway.record.counts import BUCKETS
from fleet.key_limits import STORED, KeyLimits, period, redis_keys
from fleet.models import ApiKey, ConfigurationVersion, RequestMetric
from fleet.services import configuration, keys, records
from tests.stubs.records import RequestRecord, entry

LIMITS = {
    "requests_per_minute": 60,
    "tokens_per_minute": 6000,
    "concurrent_requests": 4,
    "budget_tokens": 100_000,
    "budget_period": "day",
}


@pytest.fixture
def key(db):
    row, _ = keys.create("laptop", limits=KeyLimits(**LIMITS))
    return row


def test_the_data_plane_hears_of_limits_and_of_disabled_keys(key):
    view = configuration.read().keys[key.digest]
    assert view.limits == KeyLimits(**LIMITS)
    assert not view.disabled
    keys.disable("laptop")
    assert configuration.read().keys[key.digest].disabled


def test_a_key_without_limits_has_none(db):
    row, _ = keys.create("free")
    assert not configuration.read().keys[row.digest].limits
    assert keys.usage([row]) == {}


def fill(server, row) -> None:
    account, leases = redis_keys(row.digest)
    now = time.time()
    server.client.set(account, STORED.pack(now - 60, now + 30, now + 6, period("day", now)[0], 1234, 2))
    server.client.zadd(leases, {"a:1:9:0": now + 30, "b:1:9:0": now + 30, "dead:1:9:0": now - 1})


def test_the_list_shows_what_is_in_use(staff, key, redis_server):
    fill(redis_server, key)
    page = staff.get("/admin/fleet/apikey/").content.decode()
    for text in (
        "30 of 60 requests a minute",
        "of 6,000 tokens a minute",
        "2 of 4 at once",
        "1,234 of 100,000",
    ):
        assert text in page
    assert "2 of 4 at once" in staff.get(f"/admin/fleet/apikey/{key.pk}/change/").content.decode()


def test_the_pages_do_without_redis(staff, key, settings_redis_away):
    for path in ("/admin/fleet/apikey/", f"/admin/fleet/apikey/{key.pk}/change/"):
        assert "Redis does not answer" in staff.get(path).content.decode()


@pytest.fixture
def settings_redis_away():
    from django.test import override_settings

    with override_settings(REDIS_URL="unix:///nonexistent/redis.sock"):
        yield


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("requests_per_minute", "0", "greater than or equal to 1"),
        ("models", '"qwen"', "Expected a list of strings"),
        ("models", "[1]", "Expected a list of strings"),
    ],
)
def test_a_form_with_a_mistake_says_what_is_expected(staff, field, value, error):
    form = {"name": "k", "models": "[]", "budget_period": "month", field: value}
    assert error in staff.post("/admin/fleet/apikey/add/", form).content.decode()
    assert not ApiKey.objects.exists()


def test_actions_switch_keys_off_and_on_and_tell_the_gateways(staff, key):
    before = ConfigurationVersion.current()
    chosen = {"_selected_action": [key.pk]}
    staff.post("/admin/fleet/apikey/", chosen | {"action": "disable"})
    key.refresh_from_db()
    assert key.disabled
    staff.post("/admin/fleet/apikey/", chosen | {"action": "enable"})
    key.refresh_from_db()
    assert not key.disabled
    assert ConfigurationVersion.current() >= before + 2


def row(**fields) -> bytes:
    values = {"request_id": "r", "started_at": 1000.0, "model": "m", "node": "n", "dialect": "openai-chat"}
    return RequestRecord(**(values | {"stream": True, "status": 200, "outcome": "ok"} | fields)).row


def test_a_record_marks_its_key_as_used_without_moving_the_configuration(key):
    before = ConfigurationVersion.current()
    records.store([row(key="laptop", latency_s=2.0), row(key="laptop", started_at=500.0)])
    key.refresh_from_db()
    assert key.last_used_at == datetime.fromtimestamp(1002, UTC)
    assert ConfigurationVersion.current() == before


def test_a_key_in_steady_use_is_marked_once_a_minute(key):
    marked = []
    for started_at in (1000.0, 1030.0, 1059.0, 1061.0, 1100.0):
        records.store([row(key="laptop", started_at=started_at, latency_s=0.0)])
        key.refresh_from_db()
        marked.append(key.last_used_at.timestamp())
    assert marked == [1000, 1000, 1000, 1061, 1061]


def test_what_a_client_calls_a_model_never_holds_up_the_records(db):
    """PostgreSQL takes neither NUL nor half a surrogate pair nor more than the column holds."""
    ledger = Ledger(BUCKETS)
    for name in ["x" * 5000, "a\0b", "\\\0", "\\u0000", "'; \"%s {}", "\ud800"]:
        ledger.put(entry(model=name), 101.0, 1000.0)
    ledger.put(entry(attempts=(("n1", "node\0lost"),), notes=(("adjusted", "x"),)), 101.0, 1000.0)
    records.store(ledger.take_rows())
    *named, stored = RequestMetric.objects.order_by("id")
    assert [row.model for row in named] == [
        *("x" * 200, "a\ufffdb", "\\\ufffd", "\\u0000", "'; \"%s {}", "?"),
    ]
    assert stored.waits_s == []
    assert stored.attempts == [["n1", "node\N{REPLACEMENT CHARACTER}lost"]]
    assert stored.notes == [["adjusted", "x"]]


def test_many_keys_are_marked_at_once_and_those_that_are_gone_are_passed_over(db):
    made = [keys.create(f"k{number}")[0] for number in range(3)]
    records.store([row(key=f"k{number}", latency_s=float(number)) for number in (2, 0, 7)])
    for one in made:
        one.refresh_from_db()
    assert [one.last_used_at and one.last_used_at.timestamp() for one in made] == [1000.0, None, 1002.0]

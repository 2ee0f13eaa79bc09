from __future__ import annotations

import csv
import io
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleet.models import ApiKey, ModelProfile, UsageRollup
from fleet.services import keys, usage
from fleet.services.usage_report import report

pytestmark = pytest.mark.usefixtures("db")


def used(days_ago: int = 0, **values: object) -> None:
    zeros = dict.fromkeys(
        ("requests", "errors", "cancelled", "rejected", "cold", "timed", "latency_s", "ttft_s"), 0
    )
    defaults = {"model": "m", "node": "n", "key": "k", "dialect": "openai-chat", "cached_tokens": 0}
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(days=days_ago)
    counts = {"prompt_tokens": 1000, "completion_tokens": 500}
    UsageRollup.objects.create(hour=hour, **zeros | {"requests": 1} | defaults | counts | values)
    usage.roll_up()


def test_use_is_summed_by_what_is_asked_for():
    used(8, model="b", key="y")
    used(2, model="b", key="y", prompt_tokens=10_000)
    used(1, model="a", key="y")
    used(model="a", key="x")
    assert {name: one.tokens for name, one in report("model", 7).groups.items()} == {"b": 10_500, "a": 3_000}
    assert {name: one.requests for name, one in report("key", 7).groups.items()} == {"y": 2, "x": 1}
    assert [one.requests for one in report("day", 7).groups.values()] == [1, 1, 1]
    assert report("model", 7, key="x").total.tokens == 1_500
    made = report("model", 7)
    assert made.series(["a"])["a"] == [0, 0, 0, 0, 0, 1_500, 1_500]
    assert made.total.requests == 3


@pytest.mark.parametrize("by", ["model", "key", "node", "day"])
@pytest.mark.parametrize("shape", ["", "&format=csv"])
def test_a_year_is_read_from_its_days(staff, by, shape):
    used()
    with CaptureQueriesContext(connection) as seen:
        staff.get(f"/admin/fleet/usage/?by={by}&days=365{shape}")
    read = [query["sql"] for query in seen]
    assert any("fleet_usageday" in sql for sql in read)
    assert not any("fleet_usagerollup" in sql or "fleet_requestmetric" in sql for sql in read)


def test_use_costs_what_its_model_costs():
    ModelProfile.objects.create(model_id="a", cost_input=2.0, cost_output=10.0, cost_cache_read=0.5)
    ModelProfile.objects.create(model_id="b", cost_input=2.0)
    used(model="a", prompt_tokens=1_000_000, cached_tokens=400_000, completion_tokens=100_000)
    used(model="b", prompt_tokens=1_000_000, cached_tokens=400_000, key="y")
    used(model="free", key="z")
    costs = {name: one.cost for name, one in report("model", 7).groups.items()}
    assert costs == {"a": pytest.approx(0.6 * 2 + 0.4 * 0.5 + 1), "b": pytest.approx(2.0), "free": 0}


def test_the_page_has_a_table_a_plot_and_a_file(staff, client_for):
    used(model="=evil", requests=7)
    page = staff.get("/admin/fleet/usage/?by=key&days=90").content.decode()
    assert 'id="plot"' in page
    assert "<option selected>90</option>" in page
    response = staff.get("/admin/fleet/usage/?by=model&days=7&format=csv")
    assert response["content-type"].startswith("text/csv")
    [head, row] = csv.reader(io.StringIO(response.content.decode()))
    assert head[:3] == ["day", "model", "requests"]
    assert row[1:3] == ["'=evil", "7"]
    assert client_for().get("/admin/fleet/usage/").status_code == 302


@pytest.mark.parametrize("asked", ["by=nonsense", "days=x", "days=1000000", "by=model&days=-7"])
def test_what_cannot_be_shown_is_the_default(staff, asked):
    assert staff.get(f"/admin/fleet/usage/?{asked}").status_code == 200


def test_the_holder_of_a_key_sees_its_own_use_alone(client_for):
    row, key = keys.create("mine")
    used(key="mine", model="for-me")
    used(key="other", model="for-others")
    browser = client_for()
    assert b"API key" in browser.get("/usage/").content
    browser.post("/usage/", {"key": key})
    page = browser.get("/usage/").content.decode()
    assert "for-me" in page
    assert "for-others" not in page
    assert key not in page
    assert "for-others" not in browser.get("/usage/?format=csv").content.decode()
    row.disabled = True
    row.save()
    assert "for-me" not in browser.get("/usage/").content.decode()


def test_a_key_that_is_not_active_shows_nothing(client_for):
    _, expired = keys.create("old", expires_at=timezone.now() - timedelta(seconds=1))
    for key in (expired, "sk-nonsense", ""):
        answer = client_for().post("/usage/", {"key": key}, follow=True)
        assert b"no key that is active" in answer.content


def test_who_leaves_is_signed_out(client_for):
    _, key = keys.create("mine")
    browser = client_for()
    assert b"Usage of mine" in browser.post("/usage/", {"key": key}, follow=True).content
    assert b"Usage of mine" not in browser.post("/usage/", {"leave": "1"}, follow=True).content
    assert ApiKey.objects.exists()

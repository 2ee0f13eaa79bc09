from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone

from fleet.models import ApiKey, Node, Placement
from fleet.services import attention
from tests.fleet.test_traffic import metric

pytestmark = pytest.mark.usefixtures("db")


def node(name: str, **values: object) -> Node:
    return Node.objects.create(name=name, endpoint=f"http://{name}:13131", **values)


def matters() -> str:
    return "\n".join(matter.text for matter in attention.found())


def test_what_needs_a_person_is_found_and_leads_to_its_page(staff):
    away = node("away", healthy=False, reason="refused the connection", last_seen_at=timezone.now())
    up = node("up", healthy=True)
    up.devices.create(index=1, name="A100", kind="cuda", state="failed", reason="the worker died")
    Placement.objects.create(
        node=up, model="broken", state=Placement.State.FAILED, error_message="config.json: is cut short"
    )
    ApiKey.objects.create(name="old", digest="d" * 64, expires_at=timezone.now() + timedelta(days=3))
    ApiKey.objects.create(name="new", digest="e" * 64, expires_at=timezone.now() + timedelta(days=300))
    ApiKey.objects.create(
        name="of a session", digest="f" * 64, expires_at=timezone.now() + timedelta(days=3), of_session=True
    )
    found = matters()
    assert "of a session" not in found
    assert "away was last heard" in found
    assert "refused the connection" in found
    assert "device 1 of up is failed: the worker died" in found
    assert "broken could not be loaded on up: config.json: is cut short" in found
    assert "the key old expires" in found
    assert "new" not in found
    page = staff.get("/admin/").content.decode()
    assert f'href="/admin/fleet/node/{away.pk}/change/"' in page


def test_a_home_page_without_matters_says_so(staff, monkeypatch):
    monkeypatch.setattr(attention, "LEAST_FREE_SHARE", 0)  # of whatever disk runs this
    page = staff.get("/admin/").content.decode()
    assert "Nothing: every node answers" in page
    assert "make a join token" in page


def test_a_full_disk_is_a_matter(monkeypatch):
    monkeypatch.setattr(attention, "LEAST_FREE_SHARE", 1.1)
    assert "GiB are free where" in matters()


def test_a_node_that_does_not_answer_is_not_said_to_hold_models(staff):
    for each in (node("up", healthy=True), node("gone", healthy=False)):
        Placement.objects.create(node=each, model=f"of-{each}", state=Placement.State.LOADED)
    page = staff.get("/admin/").content.decode()
    assert "of-up" in page
    assert "of-gone" not in page


def test_a_device_has_the_memory_that_its_neuron_may_use(staff):
    limited = node("limited", healthy=True)
    limited.devices.create(
        index=0, kind="cpu", memory_total_mb=24105, memory_used_mb=424, memory_free_mb=6, state="ready"
    )
    for page in ("/admin/", "/admin/fleet/node/", "/admin/fleet/device/"):
        assert "424 of 430 MiB" in staff.get(page).content.decode(), page
    limited.devices.update(memory_used_mb=0, memory_free_mb=0)
    assert "0 of 24,105 MiB" in staff.get("/admin/fleet/device/").content.decode()


def test_what_a_node_away_held_is_said_to_be_past(staff):
    gone = node("gone", healthy=False)
    Placement.objects.create(node=gone, model="m", state=Placement.State.LOADED)
    assert "node away (was loaded)" in staff.get("/admin/fleet/placement/").content.decode()


def test_what_a_healthy_node_says_that_cannot_be_is_a_matter():
    node("odd", healthy=True, warnings=["'ours': the server lists no 'its-own'"])
    assert "odd: 'ours': the server lists no 'its-own'" in matters()


def test_lists_are_grouped_as_people_look_for_them(staff):
    page = staff.get("/admin/").content.decode()
    at = [
        page.index(f">{name}<") for name in ("Nodes", "Requests", "API keys", "Periodic tasks", "Audit log")
    ]
    assert at == sorted(at)
    assert "Solar" not in page
    assert "Clocked" not in page
    assert "View site" not in page


@pytest.mark.parametrize(
    ("group", "title", "path"),
    [
        ("Access", "Users", "auth/user"),
        ("Access", "Groups", "auth/group"),
        ("Schedules", "Periodic tasks", "django_celery_beat/periodictask"),
        ("Traffic", "Requests", "fleet/requestmetric"),
        ("System", "Audit log", "fleet/auditentry"),
    ],
)
def test_a_list_is_called_what_the_home_page_calls_it(staff, group, title, path):
    page = staff.get(f"/admin/{path}/").content.decode()
    assert f"<h1>{title}</h1>" in page
    assert f"Home</a> › {group} › {title}</div>" in page


def test_a_form_says_which_list_it_belongs_to(staff):
    crumbs = '› Access › <a href="/admin/auth/user/">Users</a> › '
    assert f"{crumbs}Add</div>" in staff.get("/admin/auth/user/add/").content.decode()
    user = get_user_model().objects.get()
    at = f"/admin/auth/user/{user.pk}"
    assert f"{crumbs}{user}</div>" in staff.get(f"{at}/change/").content.decode()
    for page, here in (("delete", "Delete"), ("history", "History")):
        way = f'{crumbs}<a href="{at}/change/">{user}</a> › {here}</div>'
        assert way in staff.get(f"{at}/{page}/").content.decode()


def test_a_schedule_is_made_of_the_kinds_that_have_lists(staff):
    page = staff.get("/admin/django_celery_beat/periodictask/add/").content.decode()
    assert 'name="interval"' in page
    assert 'name="crontab"' in page
    assert 'name="solar"' not in page
    assert 'name="clocked"' not in page


def test_the_home_page_has_its_series_and_fetches_those_of_other_spans(staff, client_for):
    metric(0)
    page = staff.get("/admin/").content.decode()
    inside = re.search(r'<script id="series" type="application/json">(.*?)</script>', page)
    assert inside
    assert len(json.loads(inside[1])["requests"]) == 60
    assert len(staff.get("/admin/fleet/traffic/?span=week").json()["requests"]) == 168
    assert staff.get("/admin/fleet/traffic/?span=age").status_code == 400
    assert client_for().get("/admin/fleet/traffic/").status_code == 302


def test_schedules_show_their_names_and_next_runs(staff):
    from fleet.services import schedule

    schedule.ensure()
    page = staff.get("/admin/django_celery_beat/periodictask/").content.decode()
    assert "Poll the nodes" in page
    assert "next run" in page.lower()


def test_a_run_that_beat_has_not_told_yet_is_not_said_to_come_in_the_past(staff):
    from django_celery_beat.models import PeriodicTask

    from fleet.services import schedule

    schedule.ensure()
    PeriodicTask.objects.update(last_run_at=timezone.now() - timedelta(minutes=4))
    page = staff.get("/admin/django_celery_beat/periodictask/").content.decode()
    assert "within 5 s" in page
    assert "within 5 min" not in page


@pytest.mark.parametrize("path", ["/admin/", "/static/admin/css/base.css"])
def test_pages_and_their_files_are_compressed_for_browsers_that_take_it(staff, path: str):
    plain = staff.get(path)
    packed = staff.get(path, headers={"accept-encoding": "gzip"})
    assert (plain.status_code, packed.headers["content-encoding"]) == (200, "gzip")
    whole, small = (len(b"".join(answer)) for answer in (plain, packed))
    assert small < whole / 2


def test_of_a_large_fleet_those_that_are_away_are_shown_first(staff):
    Node.objects.bulk_create(
        Node(name=f"n{number:03}", endpoint="http://x:1", healthy=number != 70) for number in range(80)
    )
    page = staff.get("/admin/").content.decode()
    assert "and 30 more" in page
    shown = re.findall(r'<th scope="row"><a [^>]*>(n\d+)</a>', page)
    assert shown[:2] == ["n070", "n000"]
    assert len(shown) == 50

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model

from cortex_site.base import log_files
from fleet.admin import log_page

pytestmark = pytest.mark.usefixtures("db")
LINES = "/admin/fleet/logs/lines/"


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.setattr(log_page, "_folder", lambda: tmp_path)
    (tmp_path / "neuron.log").write_text("".join(f"line {number} req-{number % 2}\n" for number in range(10)))
    (tmp_path / "secret.txt").write_text("not a log\n")
    return tmp_path


def test_lines_are_the_last_ones_then_those_that_come(staff, logs):
    first = staff.get(LINES, {"name": "neuron", "match": "req-1"}).json()
    assert first["lines"] == [f"line {number} req-1" for number in (1, 3, 5, 7, 9)]
    with (logs / "neuron.log").open("a") as file:
        file.write("line 11 req-1\nline 12 is being wri")
    more = staff.get(LINES, {"name": "neuron", "after": first["end"]}).json()
    assert more["lines"] == ["line 11 req-1"]
    with (logs / "neuron.log").open("a") as file:
        file.write("tten\n")
    assert staff.get(LINES, {"name": "neuron", "after": more["end"]}).json()["lines"] == [
        "line 12 is being written"
    ]


def test_a_log_that_was_begun_anew_is_read_anew(staff, logs):
    (logs / "neuron.log").write_text("new\n")
    assert staff.get(LINES, {"name": "neuron", "after": 10_000}).json()["lines"] == ["new"]


@pytest.mark.parametrize("name", ["", "secret", "../secret", "/etc/passwd", "neuron.log", "redis"])
def test_only_logs_are_read(staff, logs, name):
    assert staff.get(LINES, {"name": name}).status_code == 404


def test_only_a_bounded_part_is_read(staff, logs, monkeypatch):
    monkeypatch.setattr(log_files, "MAX_BYTES", 30)
    lines = staff.get(LINES, {"name": "neuron"}).json()["lines"]
    assert lines == ["line 8 req-0", "line 9 req-1"]
    monkeypatch.setattr(log_files, "MAX_LINES", 1)
    assert staff.get(LINES, {"name": "neuron"}).json()["lines"] == ["line 9 req-1"]


def test_logs_are_for_those_who_may_operate(staff, client_for, logs):
    assert b">neuron</option>" in staff.get("/admin/fleet/logs/").content
    looker = client_for()
    looker.force_login(get_user_model().objects.create_user("looker", is_staff=True))
    assert looker.get(LINES, {"name": "neuron"}).status_code == 403
    assert looker.get("/admin/fleet/logs/").status_code == 403
    assert client_for().get(LINES).status_code == 302


def test_lines_of_a_node_are_its_own(staff, fleet, logs):
    fake = fleet.node("n1")
    fake.answers["/logs"] = {"lines": ["line of n1"], "end": 7}
    assert b">n1</option>" in staff.get("/admin/fleet/logs/").content
    assert staff.get(LINES, {"node": "n1", "match": "r1"}).json() == {"lines": ["line of n1"], "end": 7}
    assert "/admin/fleet/logs/?node=n1" in staff.get("/admin/fleet/node/1/change/").content.decode()
    assert staff.get("/admin/fleet/node/add/").status_code == 200
    fake.stop()
    away = staff.get(LINES, {"node": "n1"})
    assert (away.status_code, "n1 does not answer" in away.json()["error"]) == (502, True)
    assert staff.get(LINES, {"node": "n2"}).status_code == 404


def test_without_log_files_the_page_says_where_logs_are(staff, tmp_path, monkeypatch):
    monkeypatch.setattr(log_page, "_folder", lambda: tmp_path / "none")
    assert b"journalctl" in staff.get("/admin/fleet/logs/").content

from __future__ import annotations

import json
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.conf import settings

from cortex_site.base.secret_file import obtain
from fleet.api.live import FleetConsumer
from fleet.models import Alias, Operation
from fleet.services import live_state, polling


@pytest.fixture
def operator(client_for):
    return client_for(headers={"authorization": f"Bearer {obtain(settings.OPERATOR_TOKEN_FILE)}"})


@pytest.fixture
def busy_fleet(fleet):
    """Two nodes, one of them with a loaded model."""
    fleet.node("a").has("m")
    fleet.node("b")
    fleet.model("m", vram_mb=900)
    fleet.model("n")
    Alias.objects.create(name="best", target="m")
    polling.poll()
    return fleet


def test_status_shows_the_whole_fleet(busy_fleet, operator):
    status = operator.get("/api/status").json()
    a, b = status["nodes"]
    assert (a["name"], a["healthy"], a["devices"][0]["memory_used_mb"]) == ("a", True, 1000)
    assert [(row["model"], row["node"], row["state"]) for row in a["placements"]] == [("m", "a", "loaded")]
    assert [(row["format"], row["bits_per_weight"]) for row in a["placements"]] == [("bf16", 16.0)]
    assert b["placements"] == []
    assert [(model["id"], model["vram_mb"]) for model in status["models"]] == [("m", 900), ("n", None)]
    assert status["aliases"] == {"best": "m"}
    assert status["operations"] == []
    assert status["evictions"] == []
    Operation.objects.create(kind="evict", model="old", node="a", state="succeeded", reason="room for m")
    assert operator.get("/api/status").json()["evictions"][0]["reason"] == "room for m"
    assert "token" not in str(status)


def test_a_load_is_started_and_watched(busy_fleet, operator):
    answer = operator.post("/api/models/load", {"model": "n", "node": "b"}, content_type="application/json")
    assert answer.status_code == 202
    operation = answer.json()["id"]
    assert operator.get("/api/status").json()["operations"][0]["requested_by"] == "operator"
    busy_fleet.run(operation)
    assert operator.get(f"/api/operations/{operation}").json()["state"] == "succeeded"
    assert [row["node"] for row in operator.get("/api/placements").json()] == ["a", "b"]


def test_an_unload_is_started(busy_fleet, operator):
    answer = operator.post("/api/models/unload", {"model": "m", "node": "a"}, content_type="application/json")
    assert busy_fleet.run(answer.json()["id"]).state == "succeeded"


def test_operations_are_listed_page_by_page(operator, fleet):
    rows = [Operation.objects.create(kind="load", model=f"m{number}", state="failed") for number in range(5)]
    first = operator.get("/api/operations?limit=2").json()
    assert [row["id"] for row in first] == [rows[4].pk, rows[3].pk]
    second = operator.get(f"/api/operations?limit=2&before={first[-1]['id']}&state=failed").json()
    assert [row["id"] for row in second] == [rows[2].pk, rows[1].pk]
    assert operator.get("/api/operations?state=running").json() == []


def test_a_failed_operation_is_retried_and_a_pending_one_cancelled(operator, fleet):
    fleet.model()
    failed = Operation.objects.create(kind="load", model="m", state="failed")
    again = operator.post(f"/api/operations/{failed.pk}/retry").json()
    assert again["state"] == "pending"
    assert operator.post(f"/api/operations/{again['id']}/cancel").json()["state"] == "cancelled"
    refused = operator.post(f"/api/operations/{again['id']}/retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "operation_not_failed")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/api/models/load", {"model": "x"}, 404, "model_not_found", "model"),
        ("/api/models/load", {"model": "m", "node": "x"}, 404, "node_not_found", "node"),
        ("/api/models/load", {}, 422, "invalid_request", "model"),
        ("/api/models/load", {"model": 7}, 422, "invalid_request", "model"),
        ("/api/models/unload", {"model": "n", "node": "a"}, 404, "model_not_loaded", "model"),
    ],
)
def test_errors_name_the_field(busy_fleet, operator, path, body, status, code, param):
    answer = operator.post(path, body, content_type="application/json")
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer ünï"}])
def test_strangers_are_refused_with_401(client_for, db, headers):
    stranger = client_for(headers=headers)
    for answer in (stranger.get("/api/status"), stranger.post("/api/models/load", {"model": "m"})):
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "unauthorized"


def test_a_staff_session_is_accepted_with_a_csrf_token_only(staff, client_for):
    assert staff.get("/api/nodes").json() == []
    forger = client_for(enforce_csrf_checks=True)
    forger.cookies = staff.cookies
    answer = forger.post("/api/models/load", {"model": "m"}, content_type="application/json")
    assert answer.status_code == 403


def test_staff_without_the_permission_may_only_look(client_for, fleet):
    from django.contrib.auth.models import User

    fleet.model()
    browser = client_for()
    browser.force_login(User.objects.create_user("guest", is_staff=True))
    assert browser.get("/api/status").status_code == 200
    fleet.node("a")
    for path in (
        "/models/load",
        "/models/pin",
        "/nodes/a/drain",
        "/nodes/a/cordon",
        "/nodes/a/devices/0/restart",
    ):
        assert post(browser, path, model="m")[0] == 403
    assert not Operation.objects.exists()


def post(client, path, **body):
    answer = client.post(f"/api{path}", body, content_type="application/json")
    return answer.status_code, answer.json()


def test_operator_verbs_are_carried_out_and_audited(busy_fleet, operator):
    assert post(operator, "/nodes/b/cordon", reason="fan") == (200, {"done": True})
    assert operator.get("/api/status").json()["nodes"][1]["cordoned"]
    assert post(operator, "/models/load", model="n", node="b")[1]["error"]["code"] == "node_cordoned"
    assert post(operator, "/nodes/b/uncordon") == (200, {"done": True})
    assert post(operator, "/models/pin", model="best", node="a") == (200, {"done": True})
    assert operator.get("/api/status").json()["models"][0]["pinned_on"] == ["a"]
    assert post(operator, "/models/unpin", model="m") == (200, {"done": True})
    for path, kind in (
        ("/nodes/a/devices/0/defrag", "defrag"),
        ("/nodes/a/devices/0/restart", "restart"),
        ("/nodes/a/drain", "drain"),
    ):
        status, operation = post(operator, path, reason="why not")
        assert (status, operation["kind"], operation["node"]) == (202, kind, "a")
        assert busy_fleet.run(operation["id"]).state == "succeeded"
    log = operator.get("/api/audit?by=operator").json()
    wanted = ["cordon", "uncordon", "pin", "unpin", "defrag", "restart", "cordon", "drain"]
    assert [entry["action"] for entry in reversed(log)] == wanted
    assert (log[-1]["target"], log[-1]["why"]) == ("b", "fan")
    page = operator.get(f"/api/audit?action=pin&before={log[0]['id']}&limit=1").json()
    assert [entry["detail"]["pinned_on"] for entry in page] == [["a"]]


def test_operator_verbs_refuse_unknown_names(busy_fleet, operator):
    assert post(operator, "/nodes/x/drain")[1]["error"]["code"] == "node_not_found"
    assert post(operator, "/nodes/a/devices/9/defrag")[1]["error"]["param"] == "device"
    assert post(operator, "/models/pin", model="m", node="x")[0] == 404
    assert post(operator, "/models/pin")[1]["error"]["param"] == "model"


def test_an_operator_reads_what_a_models_server_wrote(fleet, operator):
    fleet.node("a").has("m")
    polling.poll()
    assert operator.get("/api/models/log?model=m").json() == {"lines": ["m has a server"]}
    for query, code in (
        ("model=other", "model_not_loaded"),
        ("model=m&node=moon", "node_not_found"),
    ):
        answer = operator.get(f"/api/models/log?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


def test_openapi_lists_the_endpoints(operator):
    schema = operator.get("/api/openapi.json").json()
    assert {"/api/status", "/api/models/load", "/api/nodes/{name}/drain", "/api/audit"} <= set(
        schema["paths"]
    )
    assert operator.get("/api/docs").status_code == 200


def test_the_number_of_queries_does_not_grow_with_the_fleet(busy_fleet, operator, queries):
    operator.get("/api/status")
    few = queries(lambda: operator.get("/api/status"))
    for name in "cdef":
        busy_fleet.node(name).has("m", "n")
    polling.poll()
    assert queries(lambda: operator.get("/api/status")) == few


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestLive:
    async def connect(self, user):
        socket = WebsocketCommunicator(FleetConsumer.as_asgi(), "/ws/fleet")
        socket.scope["user"] = user
        return socket, (await socket.connect(timeout=10))

    async def test_strangers_are_turned_away(self, db):
        from django.contrib.auth.models import AnonymousUser

        _, (accepted, code) = await self.connect(AnonymousUser())
        assert (accepted, code) == (False, 4403)

    async def test_staff_see_the_fleet_and_its_changes(self, db):
        from asgiref.sync import sync_to_async
        from django.contrib.auth.models import User
        from django.test import override_settings

        with override_settings(LIVE_INTERVAL_S=0.01):
            socket, (accepted, _) = await self.connect(User(is_staff=True))
            assert accepted
            assert (await socket.receive_json_from(timeout=10))["aliases"] == {}
            await sync_to_async(Alias.objects.create)(name="a", target="m")
            assert (await socket.receive_json_from(timeout=10))["aliases"] == {"a": "m"}
            await socket.disconnect()


def test_live_pages_are_told_what_the_status_says(busy_fleet, operator):
    Alias.objects.create(name="a", target="m")
    Operation.objects.create(kind="evict", model="m", node="a", state="succeeded", message="made room")
    Operation.objects.create(kind="load", model="m", state="pending", explanation=[{"node": "a"}])
    polling.poll()
    told = json.loads(live_state.encoded())
    assert told["nodes"]
    assert told["operations"]
    wanted = operator.get("/api/status").json()
    assert without_times(told) == without_times(wanted)


def without_times(value: Any) -> Any:
    """The same without moments, of which the two write more or fewer digits."""
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if not name.endswith("_at")}
    return [without_times(each) for each in value] if isinstance(value, list) else value

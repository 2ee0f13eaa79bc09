"""The page of one model, and adding one by hub id or directory."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone

from fleet.models import (
    AuditEntry,
    ModelProfile,
    Node,
    Operation,
    Placement,
    RequestMetric,
    UsageRollup,
)
from fleet.services import adding, model_facts, usage
from neuron.wire import ApiError

pytestmark = pytest.mark.usefixtures("db")

CHOICES = [
    {"quant": "", "format": "bf16", "download_mb": 12000, "weights_mb": 12000},
    {"quant": "q4_k", "format": "q4_k", "download_mb": 12000, "weights_mb": 3500},
]
FOUND = {
    "source": "org/m",
    "place": "hub",
    "architecture": "QwenForCausalLM",
    "context": 8192,
    "cache_mb_per_1k": 10.0,
    "choices": CHOICES,
}


def metric(**values: object) -> None:
    known = {"model": "m", "dialect": "chat", "stream": True, "status": 200, "outcome": "ok"}
    RequestMetric.objects.create(**{"started_at": timezone.now(), "request_id": "r"} | known | values)


def loaded(node: Node, **values: object) -> Placement:
    known = {"memory_mb": 1000, "memory_parts": {"weights": 700, "kv": 250}, "devices": [0], "format": "q4_k"}
    return Placement.objects.create(node=node, model="m", state="loaded", **known | values)


def page_of(staff, model: str = "m") -> str:
    return staff.get(f"/admin/fleet/model/{model}/").content.decode()


def test_a_page_says_where_a_model_is_and_why_and_what_it_takes(staff):
    node = Node.objects.create(name="n1", endpoint="http://n1:13131", healthy=True)
    loaded(node, text={"tools": "hermes"}, bits_per_weight=4.83)
    Operation.objects.create(
        kind="load", model="m", node="n1", state="succeeded", reason="a request needs it"
    )
    Operation.objects.create(
        kind="load", model="m", node="n1", state="failed", error_code="model_broken", message="is cut short"
    )
    metric(model="m", outcome="error", error_code="node_lost", request_id="req-7")
    page = page_of(staff)
    for words in (
        "a request needs it",
        "weights 700",
        "keys and values 250",
        "other 50",
        "q4_k 4.83",
        "hermes",
    ):
        assert words in page
    assert "is cut short" in page
    assert "logs/?match=req-7" in page


def test_speeds_come_from_hourly_sums(staff):
    for speed in (10.0, 30.0):
        metric(model="m", completion_tokens=60, tokens_per_second=speed, ttft_s=0.5)
    metric(model="m", completion_tokens=60, tokens_per_second=None, ttft_s=None)
    usage.roll_up()
    assert UsageRollup.objects.get().generated == 120
    day = model_facts.gather("m").speeds[0]
    assert (day.requests, day.first_token_s) == (3, 0.5)
    assert day.tokens_per_second == pytest.approx(15.0)  # 120 tokens in 6 + 2 s


def test_a_model_that_nobody_knows_has_no_page(staff):
    assert staff.get("/admin/fleet/model/nothing/").status_code == 404


def test_names_with_slashes_and_colons_have_pages(staff):
    ModelProfile.objects.create(model_id="org/m:lora")
    assert "No node has it" in page_of(staff, "org/m:lora")


def test_buttons_start_what_they_say(staff, fleet):
    fake = fleet.node("n1")
    fleet.model("m")
    answer = staff.post("/admin/fleet/model/m/", {"verb": "load", "node": "n1"}, follow=True)
    assert "Load of m: operation" in answer.content.decode()
    assert Operation.objects.get().requested_by == "root"
    staff.post("/admin/fleet/model/m/", {"verb": "pin"})
    assert ModelProfile.objects.get().pinned
    refused = staff.post("/admin/fleet/model/m/", {"verb": "unload", "node": "n1"}, follow=True)
    assert "not loaded on n1" in refused.content.decode()
    assert staff.post("/admin/fleet/model/m/", {"verb": "delete"}).status_code == 404
    assert fake.loads("m") == 0


def test_staff_who_may_look_only_get_no_buttons(client_for):
    ModelProfile.objects.create(model_id="m")
    browser = client_for()
    browser.force_login(get_user_model().objects.create_user("guest", is_staff=True))
    assert b'value="load"' not in browser.get("/admin/fleet/model/m/").content
    assert browser.post("/admin/fleet/model/m/", {"verb": "load"}).status_code == 403
    assert browser.get("/admin/fleet/add-model/").status_code == 403


def test_a_look_says_what_fits_where_and_stores_nothing(staff, fleet):
    fleet.node("n1").answers["/models/preflight"] = FOUND
    before = ModelProfile.objects.count(), Operation.objects.count()
    page = staff.get("/admin/fleet/add-model/", {"source": "org/m"}).content.decode()
    assert "made for 8,192 tokens" in page
    assert "infeasible" in page  # 12,000 MiB on 8,000
    assert "fits</span> n1" in page
    assert (ModelProfile.objects.count(), Operation.objects.count()) == before


def test_a_directory_fits_only_where_it_is(fleet):
    fleet.node("n1").answers["/models/preflight"] = FOUND | {"place": "disk", "path": "/m"}
    fleet.node("n2", devices=[80_000])
    outcome = adding.look("/m")
    assert (outcome.having, list(outcome.refused)) == (["n1"], ["n2"])
    assert [form.outlook for form in outcome.forms] == ["infeasible", "fits"]


def test_what_a_node_says_of_an_unreachable_hub_is_shown(staff, fleet):
    fake = fleet.node("n1")
    fake.refusals["/models/preflight"] = 503
    page = staff.get("/admin/fleet/add-model/", {"source": "org/m"}).content.decode()
    assert 'role="alert">n1: ' in page


def test_without_a_healthy_neuron_the_page_says_what_to_do(staff):
    page = staff.get("/admin/fleet/add-model/", {"source": "org/m"}).content.decode()
    assert "No neuron is healthy: start one" in page
    with pytest.raises(ApiError, match="no node"):
        adding.look("org/m", "nowhere")


def test_a_form_is_added_under_a_name_and_loaded(staff, fleet):
    fleet.node("n1")
    asked = {"verb": "add", "source": "org/m", "quant": "q4_k", "node": "n1", "name": "mine"}
    answer = staff.post("/admin/fleet/add-model/", asked)
    assert answer["location"] == "/admin/fleet/model/mine/"
    row = ModelProfile.objects.get()
    assert (row.model_id, row.source, row.quant) == ("mine", "org/m", "q4_k")
    assert AuditEntry.objects.filter(action="add", target="model mine").exists()
    again = staff.post("/admin/fleet/add-model/", asked, follow=True).content.decode()
    assert "is in the catalogue already" in again


def test_downloads_are_begun_and_followed(staff, fleet):
    fake = fleet.node("n1")
    fake.answers["/models/download"] = {}
    fake.answers["/downloads"] = [{"source": "org/m", "state": "running", "done_mb": 5, "total_mb": 9}]
    staff.post("/admin/fleet/add-model/", {"verb": "download", "source": "org/m", "node": "n1", "quant": ""})
    assert AuditEntry.objects.filter(action="download", target="org/m").exists()
    (told,) = staff.get("/api/downloads").json()
    assert (told["node"], told["source"], told["done_mb"], told["total_mb"]) == ("n1", "org/m", 5, 9)
    fake.stop()
    assert staff.get("/api/downloads").json() == []


def test_a_download_is_cancelled_on_its_node(staff, fleet, client_for):
    fake = fleet.node("n1")
    fake.answers["/downloads/cancel"] = {}
    asked, headers = {"source": "org/m", "node": "n1"}, {"content_type": "application/json"}
    assert staff.post("/api/downloads/cancel", asked, **headers).status_code == 202
    assert AuditEntry.objects.filter(action="cancel download", target="org/m").exists()
    del fake.answers["/downloads/cancel"]
    assert staff.post("/api/downloads/cancel", asked, **headers).status_code == 404
    assert client_for().post("/api/downloads/cancel", asked, **headers).status_code == 401
    assert "cancel" in staff.get("/admin/fleet/add-model/").content.decode()


def test_the_operator_api_looks_and_downloads(staff, fleet):
    fake = fleet.node("n1")
    fake.answers["/models/preflight"] = FOUND
    fake.answers["/models/download"] = {}
    headers = {"content_type": "application/json"}
    told = staff.post("/api/models/preflight", {"source": "org/m"}, **headers).json()
    assert [form["outlook"] for form in told["forms"]] == ["infeasible", "fits"]
    assert told["having"] == ["n1"]
    answer = staff.post("/api/models/download", {"source": "org/m", "node": "n1"}, **headers)
    assert answer.status_code == 202
    assert staff.post("/api/models/download", {"source": "org/m", "node": "x"}, **headers).status_code == 404

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib import admin
from django.utils import timezone

from fleet.models import (
    Alias,
    ApiKey,
    AuditEntry,
    Device,
    ModelProfile,
    Node,
    Operation,
    Placement,
    RequestBatch,
    RequestMetric,
    StoredFile,
)
from fleet.services import joining, keys, polling, usage

PAGES = {
    "node": "beast",
    "device": "beast cuda:0",
    "modelprofile": "model-one",
    "alias": "alias-one",
    "placement": "model-one",
    "operation": "operation-message",
    "requestmetric": "request-one",
    "apikey": "key-one",
    "jointoken": "join-one",
    "usagerollup": "model-one",
    "auditentry": "audit-target",
    "requestbatch": "batch-one",
    "storedfile": "file-one",
}


@pytest.fixture
def rows(fleet):
    """A row of everything."""
    fleet.node("beast").has("model-one")
    polling.poll()
    Node.objects.update(token="node-secret")
    fleet.model("model-one")
    Alias.objects.create(name="alias-one", target="model-one")
    keys.create("key-one")
    joining.create(name="join-one")
    Operation.objects.create(
        kind="load",
        model="model-one",
        node="beast",
        state="failed",
        message="operation-message",
        explanation=[{"node": "beast", "outlook": "busy", "message": "<waits>"}],
        started_at=timezone.now(),
        finished_at=timezone.now(),
    )
    RequestMetric.objects.create(
        request_id="request-one",
        started_at=timezone.now(),
        model="model-one",
        node="beast",
        dialect="openai-chat",
        stream=True,
        status=200,
        outcome="ok",
        ttft_s=0.25,
        latency_s=1,
        tokens_per_second=42.5,
    )
    usage.roll_up()
    AuditEntry.objects.create(who="root", action="cordon", target="audit-target")
    soon = timezone.now() + timedelta(days=1)
    RequestBatch.objects.create(id="batch-one", owner="o", endpoint="/v1/embeddings", expires_at=soon)
    StoredFile.objects.create(
        id="file-one", owner="o", filename="a", purpose="batch", bytes=1, expires_at=soon
    )
    return fleet


def test_every_model_of_the_fleet_has_a_page():
    names = {model._meta.model_name for model in admin.site._registry if model._meta.app_label == "fleet"}
    assert names == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_list_pages_show_their_rows_and_can_be_searched(rows, staff, page):
    listed = staff.get(f"/admin/fleet/{page}/")
    assert listed.status_code == 200
    assert PAGES[page] in listed.content.decode()
    assert staff.get(f"/admin/fleet/{page}/?q=nothing-like-it").status_code == 200


@pytest.mark.parametrize("page", PAGES)
def test_each_row_has_a_page_of_its_own(rows, staff, page):
    listed = staff.get(f"/admin/fleet/{page}/").content.decode()
    link = re.search(rf"/admin/fleet/{page}/[\w-]+/change/", listed)
    assert link
    assert staff.get(link[0]).status_code == 200


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_many_rows_needs_no_more_queries_than_one_of_few(rows, staff, queries, page):
    before = queries(lambda: staff.get(f"/admin/fleet/{page}/"))
    for number in range(5):
        rows.node(f"n{number}").has("model-one")
        Alias.objects.create(name=f"alias-{number}", target="m")
        keys.create(f"key-{number}")
        ModelProfile.objects.create(model_id=f"m{number}")
        Operation.objects.create(kind="load", model=f"m{number}", state="failed")
        RequestMetric.objects.create(
            request_id=f"r{number}",
            started_at=timezone.now(),
            model="model-one",
            dialect="openai-chat",
            stream=True,
            status=200,
            outcome="ok",
        )
    polling.poll()
    assert queries(lambda: staff.get(f"/admin/fleet/{page}/")) <= before


def test_pages_show_memory_durations_and_verdicts(rows, staff):
    assert "1,000 of 8,000 MiB" in staff.get("/admin/fleet/device/").content.decode()
    assert "1,000 of 8,000 MiB" in staff.get("/admin/fleet/node/").content.decode()
    metrics = staff.get("/admin/fleet/requestmetric/").content.decode()
    assert "0.25 s" in metrics
    assert "42.5" in metrics
    operation = Operation.objects.get()
    page = staff.get(f"/admin/fleet/operation/{operation.pk}/change/").content.decode()
    assert "<strong>beast</strong>: busy, &lt;waits&gt;" in page


@pytest.mark.parametrize("page", ["operation", "requestmetric", "device", "placement"])
def test_rows_that_the_fleet_writes_are_read_only(rows, staff, page):
    assert staff.get(f"/admin/fleet/{page}/add/").status_code == 403
    listed = staff.get(f"/admin/fleet/{page}/").content.decode()
    link = re.search(rf"/admin/fleet/{page}/\d+/", listed)[0]
    assert staff.post(f"{link}change/", {}).status_code == 403
    assert staff.post(f"{link}delete/", {"post": "yes"}).status_code == 403


def test_rows_of_a_file_are_read_only_and_do_not_show_secrets(rows, staff):
    Node.objects.update(from_file=True)
    node = Node.objects.get()
    page = staff.get(f"/admin/fleet/node/{node.pk}/change/").content.decode()
    assert "node-secret" not in page
    assert 'name="_save"' not in page
    assert staff.post(f"/admin/fleet/node/{node.pk}/change/", {"name": "x"}).status_code == 403
    form = {"action": "delete_selected", "_selected_action": node.pk, "post": "yes"}
    staff.post("/admin/fleet/node/", form)
    assert Node.objects.filter(name="beast").exists()


def test_a_node_can_be_added_and_a_wrong_endpoint_is_explained(staff):
    wrong = staff.post("/admin/fleet/node/add/", {"name": "n", "kind": "neuron", "endpoint": "beast:13131"})
    assert "A URL such as http://host:13131" in wrong.content.decode()
    staff.post("/admin/fleet/node/add/", {"name": "n", "kind": "neuron", "endpoint": "http://beast:13131"})
    assert Node.objects.get().endpoint == "http://beast:13131"


def act(staff, page, action, *rows):
    form = {"action": action, "_selected_action": [row.pk for row in rows]}
    return staff.post(f"/admin/fleet/{page}/", form, follow=True).content.decode()


def test_a_model_is_loaded_and_unloaded_by_actions(rows, staff):
    other = rows.model("model-two")
    text = act(staff, "modelprofile", "load", other)
    operation = Operation.objects.get(model="model-two")
    assert f"Load of model-two: operation #{operation.pk} is pending" in text
    assert operation.requested_by == "root"
    assert rows.run(operation.pk).state == "succeeded"
    text = act(staff, "modelprofile", "unload", other)
    assert "Unload of model-two on beast: operation" in text
    assert rows.run(Operation.objects.get(kind="unload").pk).state == "succeeded"


def test_a_placement_is_unloaded_and_loaded_by_actions(rows, staff):
    placement = Placement.objects.get()
    assert "Unload of model-one on beast" in act(staff, "placement", "unload", placement)
    rows.run(Operation.objects.get(kind="unload").pk)
    assert "Model-one is not loaded on beast." in act(staff, "placement", "unload", placement)
    assert "Load of model-one" in act(staff, "placement", "load", placement)
    assert Operation.objects.get(state="pending").wanted_node == "beast"


def test_actions_steer_nodes_and_devices_and_are_audited(rows, staff):
    node, device, placement = Node.objects.get(), Device.objects.get(), Placement.objects.get()
    assert "Cordoned: 1" in act(staff, "node", "cordon", node)
    assert Node.objects.get().cordoned
    assert "Uncordoned: 1" in act(staff, "node", "uncordon", node)
    assert "Pinned: 1" in act(staff, "placement", "pin", placement)
    assert ModelProfile.objects.get(model_id="model-one").pinned_on == ["beast"]
    assert "Unpinned: 1" in act(staff, "modelprofile", "unpin", ModelProfile.objects.get())
    assert "Defrag of beast:0: operation" in act(staff, "device", "defrag", device)
    assert rows.run(Operation.objects.get(kind="defrag").pk).state == "succeeded"
    assert "Drain of beast: operation" in act(staff, "node", "drain_by_force", node)
    row = rows.run(Operation.objects.get(kind="drain").pk)
    assert (row.state, row.force, row.requested_by) == ("succeeded", True, "root")
    page = staff.get("/admin/fleet/auditentry/?q=drain").content.decode()
    assert "root" in page
    assert "beast" in page


def test_a_models_page_shows_what_its_template_takes_and_refuses_unknown_names(rows, staff):
    profile = ModelProfile.objects.get()
    page = f"/admin/fleet/modelprofile/{profile.pk}/change/"
    assert "Known once the model was loaded." in staff.get(page).content.decode()
    rows.node("n1").has(profile.model_id)
    polling.poll()
    Placement.objects.filter(model=profile.model_id).update(text={"turns": "must <alternate>"})
    assert "<th>turns</th><td>must &lt;alternate&gt;</td>" in staff.get(page).content.decode()
    form = {
        "model_id": "model-one",
        "harness": "torch",
        "min_devices": 1,
        "replicas": 1,
        "tool_format": "morse",
    }
    assert "must be one of harmony, " in staff.post(page, form).content.decode()


def test_changes_of_the_configuration_are_in_the_audit_log_without_secrets(rows, staff):
    profile = ModelProfile.objects.get()
    form = {
        "model_id": "model-one",
        "harness": "torch",
        "min_devices": 1,
        "min_residency_s": 0,
        "replicas": 3,
    }
    form |= {"pinned_on": "[]", "capabilities": "[]", "cost": "{}"}
    staff.post(f"/admin/fleet/modelprofile/{profile.pk}/change/", form)
    entry = AuditEntry.objects.get(action="change")
    assert (entry.who, entry.target) == ("root", "model model-one")
    assert "Replicas" in entry.detail["fields"]
    new = {"name": "n", "kind": "neuron", "endpoint": "http://beast:13131", "token": "a-secret-of-mine"}
    staff.post("/admin/fleet/node/add/", new)
    assert AuditEntry.objects.get(action="add").target == "node n"
    assert "a-secret-of-mine" not in str(list(AuditEntry.objects.values()))


def test_failed_operations_are_retried_and_pending_ones_cancelled(rows, staff):
    failed = Operation.objects.get()
    act(staff, "operation", "retry", failed)
    again = Operation.objects.get(state="pending")
    assert again.reason == f"retry of #{failed.pk}"
    act(staff, "operation", "cancel", again)
    assert Operation.objects.get(pk=again.pk).state == "cancelled"
    assert "only failed ones are retried. Ask for it anew." in act(staff, "operation", "retry", again)


def test_a_new_key_is_shown_once(staff):
    form = {"name": "k", "models": "[]", "priority": 0, "budget_period": "day"}
    made = staff.post("/admin/fleet/apikey/add/", form)
    key = re.search(r'<code id="key">(\S+)</code>', made.content.decode())[1]
    row = ApiKey.objects.get()
    assert row.digest == keys.digest(key)
    assert "no-store" in made["Cache-Control"]
    for path in ("/admin/fleet/apikey/", f"/admin/fleet/apikey/{row.pk}/change/"):
        assert key not in staff.get(path).content.decode()
    fields = form | {"name": "k2", "disabled": "on"}
    staff.post(f"/admin/fleet/apikey/{row.pk}/change/", fields)
    row.refresh_from_db()
    assert (row.name, row.disabled, row.digest) == ("k2", True, keys.digest(key))


def test_the_root_leads_to_the_login_page(client_for, db):
    stranger = client_for()
    assert stranger.get("/").url == "/admin/"
    assert stranger.get("/admin/").url.startswith("/admin/login/")
    css = stranger.get("/static/admin/css/base.css")
    assert b"body" in b"".join(css.streaming_content)
    css.close()


def test_the_live_page_is_for_staff_and_every_page_links_to_it(staff, client_for):
    page = staff.get("/admin/fleet/live/")
    assert page.status_code == 200
    for file in ("fleet/live.js", "fleet/live.css"):
        assert f"/static/{file}" in page.content.decode()
        served = staff.get(f"/static/{file}")
        assert served.status_code == 200
        served.close()
    assert "/admin/fleet/live/" in staff.get("/admin/").content.decode()
    assert client_for().get("/admin/fleet/live/").status_code == 302

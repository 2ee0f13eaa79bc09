"""Nodes of kind `openai` in the control plane: watched, shown, never a place to load anything."""

from __future__ import annotations

import pytest
from django.conf import settings

from cortex_site.base.secret_file import obtain
from cortex_site.config.cortex_toml import CortexConfig, PollSettings
from cortex_site.config.models_toml import Catalogue
from fleet.foreign.models import ServedModel
from fleet.models import Node, Operation, Placement
from fleet.services import configuration, idle, lifecycle, polling
from fleet.services.settings_sync import sync_files
from fleet.snapshot import NodeConfig
from neuron.wire import ApiError
from tests.stubs.fake_neuron import FakeNeuron
from tests.stubs.fake_server import LISTS


@pytest.fixture
def server(fleet):
    """A server that lists `m` and is known as `cloud`."""
    fake = FakeNeuron("cloud", token="sk-server")
    fake.__enter__()
    fleet.fakes.append(fake)
    fake.answers["/v1/models"] = LISTS["vllm"]
    Node.objects.create(name="cloud", kind="openai", endpoint=f"{fake.endpoint}/v1", token="sk-server")
    polling.poll()
    return fake


def placement() -> Placement:
    return Placement.objects.get(node__name="cloud")


def test_the_models_that_a_server_lists_are_recorded(server):
    node = Node.objects.get()
    assert (node.healthy, node.status, node.reason, node.misses) == (True, "ok", "", 0)
    row = placement()
    assert (row.model, row.state, row.context, row.running) == ("m", "loaded", 8192, 0)
    polling.poll()
    assert placement().changed_at == row.changed_at
    server.answers["/v1/models"] = {"data": [{"id": "n"}]}
    polling.poll()
    assert dict(Placement.objects.values_list("model", "state")) == {"m": "unloaded", "n": "loaded"}
    assert server.asked == []


def test_a_poll_that_finds_nothing_new_writes_no_placement(server, queries):
    (node,) = Node.objects.all()
    limits = PollSettings()
    many = [ServedModel(f"m{number}") for number in range(300)]
    polling.record(node, many, limits)
    assert Placement.objects.filter(state="loaded").count() == 300
    assert queries(lambda: polling.record(node, many, limits)) < 10


@pytest.mark.parametrize(
    ("answer", "token", "reason"),
    [
        (None, "wrong", "cloud does not accept the API key (401)"),
        ("<html>", "sk-server", "cloud: its list of models has no list"),
        (b"<html>", "sk-server", "cloud: its list of models is not JSON"),
    ],
)
def test_a_server_that_fails_says_why(server, answer, token, reason):
    if answer:
        server.answers["/v1/models"] = answer
    Node.objects.update(token=token)
    polling.poll()
    node = Node.objects.get()
    assert node.misses == 1
    assert node.reason.startswith(reason)
    assert "sk-" not in node.reason


def test_a_server_that_is_polled_too_often_stays_healthy(server):
    server.answers.clear()
    server.refusals["/v1/models"] = 429
    for _ in range(4):
        polling.poll()
    node = Node.objects.get()
    assert (node.healthy, node.misses) == (True, 0)
    assert placement().state == "loaded"


def test_a_server_without_a_list_has_what_the_operator_names(server):
    del server.answers["/v1/models"]
    Node.objects.update(model_names={"ours": "its own"})
    polling.poll()
    assert Placement.objects.get(state="loaded").model == "ours"


def test_a_name_that_the_server_does_not_list_is_flagged(server):
    Node.objects.update(model_names={"m": "m", "big": "vendor/big"})
    polling.poll()
    assert Node.objects.get().warnings == ["'big': the server lists no 'vendor/big'"]
    assert [row.model for row in Placement.objects.filter(state="loaded")] == ["m"]


def test_nothing_is_loaded_or_unloaded_on_a_server(server, fleet):
    with pytest.raises(ApiError) as refused:
        lifecycle.unload("m", "cloud", requested_by="x")
    assert (refused.value.status, refused.value.code, refused.value.param) == (409, "no_lifecycle", "node")
    fleet.model("k")
    with pytest.raises(ApiError) as refused:
        lifecycle.load("k", "cloud", requested_by="x")
    assert refused.value.code == "no_lifecycle"
    failed = fleet.run(lifecycle.load("k", requested_by="x").id)
    assert (failed.state, failed.error_code) == ("failed", "no_node")
    fleet.node("a")
    loaded = fleet.run(lifecycle.load("k", requested_by="x").id)
    assert (loaded.state, loaded.node) == ("succeeded", "a")
    assert [entry["node"] for entry in loaded.explanation] == ["a"]
    assert server.asked == []


def test_a_model_of_a_server_alone_is_not_loaded_elsewhere(server, fleet):
    fleet.node("a")
    with pytest.raises(ApiError) as refused:
        lifecycle.ensure_loaded("m", requested_by="gateway")
    assert (refused.value.status, refused.value.retry_after_s) == (503, 5)
    assert "cloud" in refused.value.message
    fleet.model("m")  # the catalogue has it too: then it can be loaded
    assert fleet.run(lifecycle.ensure_loaded("m", requested_by="gateway").id).node == "cloud"
    server.stop()
    for _ in range(3):
        polling.poll()
    assert fleet.run(lifecycle.load("m", requested_by="x").id).node == "a"


def test_idle_models_of_a_server_stay(server, fleet):
    fleet.model("m", ttl_s=1)
    Placement.objects.update(changed_at="2020-01-01T00:00:00Z")
    assert idle.unload_idle() == 0
    assert not Operation.objects.exists()


def test_a_server_of_the_file_is_configured(db):
    entry = {"name": "c", "kind": "openai", "base_url": "https://x/v1", "api_key": "k", "models": ["m"]}
    config = CortexConfig(neurons=[entry | {"max_requests": 4}])
    assert "'k'" not in repr(config)
    sync_files(config, Catalogue())
    expected = NodeConfig("c", "https://x/v1", "k", kind="openai", models={"m": "m"}, max_requests=4)
    assert configuration.read().nodes == {"c": expected}
    sync_files(CortexConfig(neurons=[{"name": "c", "endpoint": "http://x"}]), Catalogue())
    assert configuration.read().nodes == {"c": NodeConfig("c", "http://x")}


FORM = {
    "name": "cloud",
    "kind": "openai",
    "endpoint": "https://api.example/v1",
    "token": "",
    "model_names": "{}",
    "max_requests": "",
    "first_byte_timeout_s": "",
    "idle_timeout_s": "",
}


def test_the_admin_takes_a_key_and_never_shows_it(staff):
    assert staff.post("/admin/fleet/node/add/", FORM | {"token": "sk-server"}).status_code == 302
    node = Node.objects.get()
    page = f"/admin/fleet/node/{node.pk}/change/"
    assert "sk-server" not in staff.get(page).content.decode()
    assert staff.post(page, FORM | {"max_requests": "3", "model_names": ""}).status_code == 302
    node.refresh_from_db()
    assert (node.token, node.max_requests) == ("sk-server", 3)
    assert staff.post(page, FORM | {"forget_token": "on"}).status_code == 302
    node.refresh_from_db()
    assert node.token == ""


def test_another_address_does_not_receive_a_key_that_its_editor_may_not_see(staff):
    staff.post("/admin/fleet/node/add/", FORM | {"token": "sk-server"})
    node = Node.objects.get()
    page = f"/admin/fleet/node/{node.pk}/change/"
    for endpoint in ("https://elsewhere.example/v1", "http://api.example/v1", "https://api.example:444/v1"):
        answer = staff.post(page, FORM | {"endpoint": endpoint})
        assert answer.status_code == 200
        assert "errors field-token" in answer.content.decode()
        assert "sk-server" not in answer.content.decode()
    node.refresh_from_db()
    assert (node.endpoint, node.token) == (FORM["endpoint"], "sk-server")
    assert staff.post(page, FORM | {"endpoint": "https://api.example/v2"}).status_code == 302
    assert staff.post(page, FORM | {"endpoint": "https://b.example", "token": "sk-new"}).status_code == 302
    node.refresh_from_db()
    assert (node.endpoint, node.token) == ("https://b.example", "sk-new")
    assert staff.post(page, FORM | {"endpoint": "https://c.example", "forget_token": "on"}).status_code == 302
    node.refresh_from_db()
    assert (node.endpoint, node.token) == ("https://c.example", "")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"token": "two\r\nlines"}, "token"),
        ({"token": "sk-\u00fc"}, "token"),
        ({"token": "two words"}, "token"),
        ({"kind": "neuron"}, "endpoint"),
        ({"kind": "neuron", "endpoint": "http://x", "model_names": '{"a": "b"}'}, "model_names"),
        ({"model_names": '["m"]'}, "model_names"),
        ({"model_names": '{"m": 1}'}, "model_names"),
        ({"endpoint": "https://user:secret@x/v1"}, "endpoint"),
        ({"endpoint": "https://x/v1?key=1"}, "endpoint"),
        ({"idle_timeout_s": "0"}, "idle_timeout_s"),
    ],
)
def test_the_admin_names_the_wrong_field(staff, change, field):
    answer = staff.post("/admin/fleet/node/add/", FORM | change)
    assert answer.status_code == 200
    assert f"errors field-{field}" in answer.content.decode()


def test_status_shows_the_kind(server, client_for):
    operator = client_for(headers={"authorization": f"Bearer {obtain(settings.OPERATOR_TOKEN_FILE)}"})
    (node,) = operator.get("/api/status").json()["nodes"]
    assert (node["kind"], node["warnings"]) == ("openai", [])
    assert "sk-server" not in str(node)

"""Neurons that register themselves with the control plane."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from cortex_site.base.secret_file import obtain
from fleet.models import AuditEntry, JoinToken, Node
from fleet.services import configuration, joining, polling
from neuron.wire import PROTOCOL

SECRET = "the-secret-of-its-own-API"


@pytest.fixture
def token(db):
    return joining.create(name="rack", made_by="root")[1]


@pytest.fixture
def join(client_for):
    def ask(bearer, path="", **fields):
        wish = {"name": "a", "endpoint": "http://a:13131", "token": SECRET, "protocol": PROTOCOL} | fields
        browser = client_for(headers={"authorization": f"Bearer {bearer}"})
        return browser.post(f"/api/join{path}", wish, content_type="application/json")

    return ask


def error(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def silence(seconds: float = 1000) -> None:
    Node.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=seconds))


def test_a_neuron_joins_and_is_polled_with_its_own_secret(fleet, token, join):
    fake = fleet.node("b", token=SECRET)
    Node.objects.all().delete()
    before = configuration.version()
    answer = join(token, endpoint=fake.endpoint)
    assert answer.json() == {"name": "a", "heartbeat_s": 5.0}
    assert configuration.read().nodes["a"].token == SECRET
    assert configuration.version() > before
    polling.poll()
    node = Node.objects.get()
    assert (node.healthy, node.joined) == (True, True)
    assert JoinToken.objects.get().last_used_at


def test_joins_are_in_the_audit_log(token, join):
    join(token)
    silence()
    joining.drop_silent()
    joining.revoke(JoinToken.objects.get().pk, requested_by="root")
    prefix = JoinToken.objects.get().prefix
    assert [(entry.who, entry.action, entry.target) for entry in AuditEntry.objects.order_by("id")] == [
        ("root", "make join token", prefix),
        (f"join token {prefix}", "join", "a"),
        ("cortex", "drop out", "a"),
        ("root", "revoke join token", prefix),
    ]
    assert token not in str(list(AuditEntry.objects.values()))
    assert SECRET not in str(list(AuditEntry.objects.values()))


def test_a_token_is_stored_as_a_digest_and_shown_once(token):
    row = JoinToken.objects.get()
    assert token.startswith(row.prefix)
    assert token not in str(row.__dict__)
    assert len(row.prefix) < len(token) / 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expires_at": timezone.now() - timedelta(seconds=1)}, "is expired"),
        ({"revoked": True}, "is revoked"),
        ({"digest": "another"}, "is unknown"),
    ],
)
def test_a_token_that_is_refused_says_why_and_the_cure(token, join, change, words):
    JoinToken.objects.update(**change)
    answer = join(token)
    assert error(answer) == (401, "invalid_join_token")
    assert words in answer.json()["error"]["message"]
    assert "cortex join-token" in answer.json()["error"]["message"]
    assert not Node.objects.exists()


def test_a_join_without_a_token_is_refused(client_for):
    wish = {"name": "a", "endpoint": "http://a:1", "token": SECRET}
    assert error(client_for().post("/api/join", wish, content_type="application/json")) == (
        401,
        "invalid_join_token",
    )


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ({"name": "a b"}, 422, "invalid_request"),
        ({"token": "short"}, 422, "invalid_request"),
        ({"token": "a-secret-of-two\r\nlines: yes"}, 422, "invalid_request"),
        ({"token": "a-secret-of-two\nlines"}, 422, "invalid_request"),
        ({"token": "a-secret-of-a-line\n"}, 422, "invalid_request"),
        ({"endpoint": "a:13131"}, 422, "invalid_endpoint"),
        ({"endpoint": "http://a:13131/v1"}, 422, "invalid_endpoint"),
        ({"protocol": PROTOCOL + 1}, 409, "node_protocol"),
        ({"name": "taken"}, 409, "name_taken"),
        ({"endpoint": "http://taken:1"}, 409, "endpoint_taken"),
        ({"name": "alive"}, 409, "name_taken"),
    ],
)
def test_a_join_that_conflicts_is_refused(token, join, wish, status, code):
    Node.objects.create(name="taken", endpoint="http://taken:1")
    assert join(token, name="alive", endpoint="http://alive:1").status_code == 200
    assert error(join(token, **wish)) == (status, code)
    assert Node.objects.count() == 2


def test_a_neuron_comes_back_under_its_name(token, join):
    join(token)
    assert join(token, token="another-secret-of-16").status_code == 200
    assert Node.objects.get().token == "another-secret-of-16"
    silence()
    assert join(token, endpoint="http://elsewhere:1").status_code == 200  # the old one is silent
    assert Node.objects.get().endpoint == "http://elsewhere:1"
    assert join(token, name="renamed", endpoint="http://elsewhere:1").status_code == 200
    assert Node.objects.get().name == "renamed"


def test_heartbeats_keep_a_node_and_need_its_secret(token, join):
    join(token)
    JoinToken.objects.update(revoked=True)
    silence()
    before = configuration.version()
    assert join(SECRET, "/heartbeat").status_code == 204
    assert joining.drop_silent() == []
    assert configuration.version() == before
    assert error(join("wrong", "/heartbeat")) == (404, "node_not_found")
    assert error(join(SECRET, "/heartbeat", name="unknown")) == (404, "node_not_found")


def test_a_silent_node_drops_out_unless_it_answers(token, join):
    join(token)
    Node.objects.create(name="configured", endpoint="http://c:1")
    silence(30)
    assert joining.drop_silent() == []
    silence()
    Node.objects.update(healthy=True)
    assert joining.drop_silent() == []
    Node.objects.update(healthy=False)
    assert joining.drop_silent() == ["a"]
    assert [node.name for node in Node.objects.all()] == ["configured"]


def test_tokens_are_managed_by_the_operator_api(client_for, db):
    operator = client_for(headers={"authorization": f"Bearer {obtain(settings.OPERATOR_TOKEN_FILE)}"})
    made = operator.post(
        "/api/join-tokens", {"name": "rack", "ttl_s": 60}, content_type="application/json"
    ).json()
    assert made["token"].startswith(made["prefix"])
    assert (made["state"], made["made_by"]) == ("valid", "operator")
    (listed,) = operator.get("/api/join-tokens").json()
    assert made["token"] not in str(listed)
    revoked = operator.post(f"/api/join-tokens/{made['id']}/revoke", content_type="application/json").json()
    assert revoked["state"] == "revoked"
    assert error(operator.post("/api/join-tokens/99/revoke")) == (404, "join_token_not_found")
    assert client_for().get("/api/join-tokens").status_code == 401


def test_tokens_are_managed_in_the_admin(staff):
    assert "expires_at" in staff.get("/admin/fleet/jointoken/add/").content.decode()
    form = {"name": "rack", "expires_at_0": "2099-01-01", "expires_at_1": "00:00:00"}
    page = staff.post("/admin/fleet/jointoken/add/", form).content.decode()
    row = JoinToken.objects.get()
    assert f'id="token">{row.prefix}' in page
    assert row.made_by == "root"
    staff.post("/admin/fleet/jointoken/", {"action": "revoke", "_selected_action": row.pk})
    row.refresh_from_db()
    assert row.state == "revoked"
    assert row.prefix in staff.get("/admin/fleet/jointoken/").content.decode()

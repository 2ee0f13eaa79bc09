from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.test import AsyncClient, override_settings

from fleet.admin import playground
from fleet.models import ApiKey
from fleet.services import configuration, keys, session_keys

# the threads in which async views reach the database keep their connection: one kind of database is enough
pytestmark = [
    pytest.mark.usefixtures("db"),
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]

CHAT = "/admin/fleet/playground/v1/chat/completions"
EVENTS = [b": loading m on a: 40 %\n\n", b'data: {"choices": []}\n\n', b"data: [DONE]\n\n"]


class Gateway:
    """Answers chats with events, and the first `refusals` requests with a 401."""

    def __init__(self) -> None:
        self.refusals = 0
        self.asked: list[tuple[str, str, bytes]] = []  # path, key, body
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                gateway.asked.append((self.path, self.headers["authorization"].removeprefix("Bearer "), body))
                gateway.refusals -= 1
                self.send_response(401 if gateway.refusals >= 0 else 200)
                is_stream = gateway.refusals < 0 and self.command == "POST"
                self.send_header("content-type", "text/event-stream" if is_stream else "application/json")
                self.send_header("x-request-id", "r1")
                self.send_header("set-cookie", "a=b")
                self.end_headers()
                for event in EVENTS:
                    self.wfile.write(event)

            do_GET = do_POST = respond  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def gateway(monkeypatch) -> Iterator[Gateway]:
    made = Gateway()
    monkeypatch.setattr(playground, "_api_url", lambda: made.url)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def browser(db) -> Iterator[AsyncClient]:
    with override_settings(ALLOWED_HOSTS=["testserver"]):
        made = AsyncClient()
        made.force_login(get_user_model().objects.create_superuser("root"))
        yield made


async def read(response) -> bytes:
    return b"".join([piece async for piece in response.streaming_content])


async def test_a_chat_is_relayed_with_the_sessions_key(gateway, browser):
    response = await browser.post(CHAT, {"model": "m"}, content_type="application/json")
    assert await read(response) == b"".join(EVENTS)
    assert (response["x-request-id"], response["content-type"]) == ("r1", "text/event-stream")
    assert "set-cookie" not in response
    [(path, key, body)] = gateway.asked
    assert (path, json.loads(body)) == ("/v1/chat/completions", {"model": "m"})
    row = await ApiKey.objects.aget(digest=keys.digest(key))
    assert row.of_session
    assert row.expires_at
    assert key not in str(vars(row))


async def test_a_new_key_has_time_to_become_known(gateway, browser):
    gateway.refusals = 2
    response = await browser.get("/admin/fleet/playground/v1/models")
    assert response.status_code == 200
    assert len(gateway.asked) == 3
    gateway.refusals = 1
    later = await browser.get("/admin/fleet/playground/v1/models")  # it is not new any more
    assert later.status_code == 401


async def test_the_playground_does_not_end_protected_mode(gateway, browser):
    await read(await browser.post(CHAT, {}, content_type="application/json"))
    found = await sync_to_async(configuration.read)()
    assert len(found.keys) == 1
    assert not found.has_keys


async def test_the_key_ends_with_the_session(gateway, browser):
    await read(await browser.post(CHAT, {}, content_type="application/json"))
    await browser.alogout()
    assert not await ApiKey.objects.aexists()


def test_keys_of_expired_sessions_are_pruned(db):
    from django.utils import timezone

    ApiKey.objects.create(name="old", digest="d" * 64, of_session=True, expires_at=timezone.now())
    ApiKey.objects.create(name="kept", digest="e" * 64, expires_at=timezone.now())
    assert session_keys.prune() == 1
    assert ApiKey.objects.get().name == "kept"


async def test_others_are_refused(gateway, browser):
    stranger = AsyncClient()
    assert (await stranger.get("/admin/fleet/playground/v1/models")).status_code == 403
    assert (await browser.get("/admin/fleet/playground/v1/keys")).status_code == 404
    assert (await browser.get(CHAT)).status_code == 404
    careful = AsyncClient(enforce_csrf_checks=True)
    assert (await careful.post(CHAT, {}, content_type="application/json")).status_code == 403
    assert not gateway.asked


async def test_a_chat_that_is_too_large_is_refused(gateway, browser, monkeypatch):
    monkeypatch.setattr(playground, "MAX_BODY_BYTES", 10)
    response = await browser.post(CHAT, {"model": "m" * 20}, content_type="application/json")
    assert response.status_code == 413


async def test_a_gateway_that_is_down_is_said_to_be(browser, monkeypatch):
    monkeypatch.setattr(playground, "_api_url", lambda: "http://127.0.0.1:9")
    response = await browser.get("/admin/fleet/playground/v1/models")
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "gateway_unreachable"


def test_the_page_is_for_staff(staff, client_for):
    assert b'id="playground"' in staff.get("/admin/fleet/playground/").content
    assert client_for().get("/admin/fleet/playground/").status_code == 302

from __future__ import annotations

import json

import pytest

from neuron.api.middleware import RequestMiddleware

HERE, THERE = ("127.0.0.1", 5), ("192.0.2.7", 5)


async def ask(client, *, token=None, allow_anonymous=False, header=None):
    """Status and body of a request to the middleware around an application that answers 204."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = []

    async def send(message):
        sent.append(message)

    headers = [] if header is None else [(b"authorization", header)]
    scope = {"type": "http", "method": "GET", "path": "/", "client": client, "headers": headers}
    await RequestMiddleware(app, token=token, allow_anonymous=allow_anonymous)(scope, None, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize("client", [HERE, ("::1", 5), None])
async def test_clients_on_this_machine_need_no_token(client):
    assert (await ask(client))[0] == 204


async def test_refusal_of_other_machines_names_the_settings_that_admit_them():
    status, body = await ask(THERE)
    error = json.loads(body)["error"]
    assert (status, error["code"], error["type"]) == (401, "invalid_api_key", "authentication_error")
    assert "token" in error["message"]
    assert "allow_anonymous = true" in error["message"]


async def test_allow_anonymous_admits_other_machines():
    assert (await ask(THERE, allow_anonymous=True))[0] == 204


@pytest.mark.parametrize("client", [HERE, THERE])
@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Bearer s3cret", 204),
        (b"bearer  s3cret ", 204),
        (b"Bearer s3cre", 401),
        (b"Basic s3cret", 401),
        (None, 401),
    ],
)
async def test_configured_token_is_required_from_every_client(client, header, status):
    found, body = await ask(client, token="s3cret", allow_anonymous=True, header=header)
    assert found == status
    assert b"s3cret" not in body

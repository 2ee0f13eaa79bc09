from __future__ import annotations

import hashlib
import time
from dataclasses import replace

import pytest

from cortex_site.http.locality import Locality
from cortex_site.http.origins import Origins
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request
from fleet.batches import PRIORITY, token_of
from fleet.gateway.limits import keys
from fleet.snapshot import Configuration, KeyView
from neuron.wire import ApiError
from tests.gateway.conftest import MODEL


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def request(peer="127.0.0.1", **headers) -> Request:
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Request(ParsedRequest("POST", headers=raw), (peer, 1))


def authorize(request: Request, configuration: Configuration, *, allow_anonymous: bool):
    return keys.authorize(request, configuration, Locality([], Origins([])), allow_anonymous=allow_anonymous)


KEY = KeyView("laptop", digest("sk-1"), ("small-*",))
OLD = KeyView("old", digest("sk-2"), expires_at=time.time() - 1)
KEYS = Configuration(keys={key.digest: key for key in (KEY, OLD)}, has_keys=True)
NO_KEYS = Configuration()


@pytest.mark.parametrize("headers", [{"authorization": "Bearer sk-1"}, {"x_api_key": "sk-1"}])
def test_key_is_taken_from_either_header(headers):
    assert authorize(request("10.0.0.9", **headers), KEYS, allow_anonymous=False) == KEY


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer sk-2"}])
def test_others_are_refused_once_keys_exist(headers):
    with pytest.raises(ApiError) as caught:
        authorize(request(**headers), KEYS, allow_anonymous=False)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "sk-2" not in caught.value.message


def test_protected_mode_serves_loopback_only():
    assert authorize(request("127.0.0.1"), NO_KEYS, allow_anonymous=False) is None
    assert authorize(request("::1"), NO_KEYS, allow_anonymous=False) is None
    with pytest.raises(ApiError) as caught:
        authorize(request("192.0.2.7"), NO_KEYS, allow_anonymous=False)
    assert "allow_anonymous = true" in caught.value.message
    assert "admin" in caught.value.message


def test_protected_mode_refuses_what_a_proxy_or_a_page_sends_from_here():
    for headers in ({"x_forwarded_for": "192.0.2.7"}, {"origin": "https://evil.example"}):
        with pytest.raises(ApiError) as caught:
            authorize(request(**headers), NO_KEYS, allow_anonymous=False)
        assert caught.value.status == 401
        assert authorize(request(authorization="Bearer sk-1", **headers), KEYS, allow_anonymous=False) == KEY


def test_disabling_every_key_does_not_open_the_gateway():
    with pytest.raises(ApiError):
        authorize(request(), Configuration(has_keys=True), allow_anonymous=False)


def test_anonymous_when_allowed():
    assert authorize(request("192.0.2.7"), KEYS, allow_anonymous=True) is None


async def test_key_bounds_the_models(house):
    house.control.change(keys=KEYS.keys, has_keys=True)
    await house.until(lambda snapshot: snapshot.configuration.has_keys)
    body = {"model": "m", "messages": []}
    refused = await house.client.post(
        "/v1/chat/completions", json=body, headers={"authorization": "Bearer sk-1"}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    anonymous = await house.client.post("/v1/messages", json=body)
    assert anonymous.status_code == 401
    assert anonymous.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "large", "messages": [], "model": "%s"}',
        b'{"model": "%s", "messages": [], "Model": "large"}',
        b'{"model": "%s", "messages": [], "MODE\\u004c": "large"}',
    ],
    ids=["twice", "case", "escaped"],
)
async def test_a_bound_key_names_one_model_whoever_reads_the_body(house, body):
    key = replace(KEY, models=(MODEL,))
    house.control.change(keys={key.digest: key}, has_keys=True)
    await house.until(lambda snapshot: snapshot.configuration.has_keys)
    answer = await house.client.post(
        "/v1/chat/completions", content=body % MODEL.encode(), headers={"authorization": "Bearer sk-1"}
    )
    assert answer.status_code == 200
    (sent,) = house.node.requests
    assert b"large" not in sent.body
    assert sent.body.lower().count(b'"model"') == 1


def test_a_disabled_key_is_known_and_forbidden():
    off = Configuration(keys={KEY.digest: replace(KEY, disabled=True)}, has_keys=True)
    with pytest.raises(ApiError) as caught:
        authorize(request(authorization="Bearer sk-1"), off, allow_anonymous=False)
    assert (caught.value.status, caught.value.code) == (403, "api_key_disabled")


async def test_nodes_are_told_whose_request_it_is_and_not_by_which_key(house):
    house.control.change(keys={KEY.digest: replace(KEY, models=(), priority=7)}, has_keys=True)
    await house.until(lambda snapshot: snapshot.configuration.has_keys)
    await house.client.post(
        "/v1/chat/completions",
        json={"model": "m", "messages": []},
        headers={"authorization": "Bearer sk-1", "x-cortex-principal": "somebody else"},
    )
    told = house.node.requests[-1].headers
    assert (told["x-cortex-principal"], told["x-cortex-priority"]) == (KEY.digest[:16], "7")
    assert "sk-1" not in str(told)


def ring(*, allow_anonymous=False) -> keys.KeyRing:
    return keys.KeyRing(Locality([], Origins([])), allow_anonymous=allow_anonymous)


@pytest.mark.parametrize("headers", [{"authorization": "Bearer sk-1"}, {"x_api_key": "sk-1"}])
def test_a_key_that_was_found_is_known_until_the_configuration_changes(headers):
    found = ring()
    assert [found.authorize(request(**headers), KEYS) for _ in range(3)] == [KEY] * 3
    assert found.authorize(request(**headers).parsed, KEYS) is KEY
    off = Configuration(keys={KEY.digest: replace(KEY, disabled=True)}, has_keys=True)
    for configuration in (off, Configuration(has_keys=True)):
        with pytest.raises(ApiError):
            found.authorize(request(**headers), configuration)


def test_a_known_key_expires():
    now = time.time()
    soon = Configuration(keys={KEY.digest: replace(KEY, expires_at=now + 1000)}, has_keys=True)
    found, asked = ring(), request(authorization="Bearer sk-1")
    assert found.authorize(asked, soon) is soon.keys[KEY.digest]
    object.__setattr__(soon.keys[KEY.digest], "expires_at", now - 1)
    with pytest.raises(ApiError) as caught:
        found.authorize(asked, soon)
    assert "expired" in caught.value.message


def test_a_header_that_names_no_key_alone_is_not_known_by():
    found = ring()
    both = request(authorization="Basic eDp5", x_api_key="sk-1")
    assert found.authorize(both, KEYS) is KEY
    for other in (
        request(authorization="Basic eDp5"),
        request(authorization="sk-1"),
        request(x_api_key="Bearer sk-1"),
    ):
        with pytest.raises(ApiError):
            found.authorize(other, KEYS)


def test_a_batch_is_known_by_its_token_only_while_that_is_valid(monkeypatch):
    found, asked = ring(), request(authorization=f"Bearer {token_of(KEY.digest)}")
    assert found.authorize(asked, KEYS) == replace(KEY, priority=PRIORITY)
    monkeypatch.setattr("fleet.batches._VALID_S", -1)
    with pytest.raises(ApiError):
        found.authorize(asked, KEYS)

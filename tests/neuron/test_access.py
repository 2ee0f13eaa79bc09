from __future__ import annotations

import json

import pytest

from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request
from neuron.api.application import TokenCheck
from neuron.config import NeuronConfig

HERE, THERE = ("127.0.0.1", 5), ("192.0.2.7", 5)


def ask(client, *, header=None, **settings):
    """The refusal of a request, as its client reads it, or None."""
    headers = {} if header is None else {b"authorization": header}
    refusal = TokenCheck(NeuronConfig(**settings)).refusal(Request(ParsedRequest(headers=headers), client))
    return None if refusal is None else (refusal.status, json.dumps(refusal.envelope()))


@pytest.mark.parametrize("client", [HERE, ("::1", 5), None])
def test_clients_on_this_machine_need_no_token(client):
    assert ask(client) is None


def test_refusal_of_other_machines_names_the_settings_that_admit_them():
    status, body = ask(THERE)
    error = json.loads(body)["error"]
    assert (status, error["code"], error["type"]) == (401, "invalid_api_key", "authentication_error")
    assert "another machine" in error["message"]
    assert "token" in error["message"]
    assert "allow_anonymous = true" in error["message"]


def test_allow_anonymous_admits_other_machines():
    assert ask(THERE, allow_anonymous=True) is None


@pytest.mark.parametrize("client", [HERE, THERE])
@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        (b"Bearer s3cret", True),
        (b"bearer  s3cret ", True),
        (b"Bearer s3cre", False),
        (b"Basic s3cret", False),
        (None, False),
    ],
)
def test_configured_token_is_required_from_every_client(client, header, admitted):
    refusal = ask(client, token="s3cret", allow_anonymous=True, header=header)
    assert (refusal is None) == admitted
    assert refusal is None or refusal[0] == 401
    assert "s3cret" not in str(refusal)

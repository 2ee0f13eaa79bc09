"""What a client is told when it is refused: status, envelope, headers, in its own dialect, and counted."""

from __future__ import annotations

import asyncio
import hashlib
import json

import anthropic
import openai
import pytest
from prometheus_client import REGISTRY

from fleet.key_limits import KeyLimits
from fleet.snapshot import KeyView
from tests.gateway.conftest import MODEL, make_house

TURN = [{"role": "user", "content": "Hi"}]
INFERENCE = {
    "/v1/chat/completions": {"messages": TURN},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/embeddings": {"input": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": TURN, "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": TURN},
    "/tokenize": {"messages": TURN},
}
REFUSALS = {  # secret: status, OpenAI's type and code, Anthropic's type
    "": (401, "authentication_error", "invalid_api_key", "authentication_error"),
    "sk-unknown": (401, "authentication_error", "invalid_api_key", "authentication_error"),
    "sk-expired": (401, "authentication_error", "invalid_api_key", "authentication_error"),
    "sk-disabled": (403, "permission_error", "api_key_disabled", "permission_error"),
    "sk-other-models": (403, "permission_error", "model_not_allowed", "permission_error"),
    "sk-used-up": (429, "requests", "rate_limit_exceeded", "rate_limit_error"),
}


def key(secret: str, **fields) -> tuple[str, KeyView]:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return digest, KeyView(secret, digest, **fields)


KEYS = dict(
    [
        key("sk-good"),
        key("sk-expired", expires_at=1.0),
        key("sk-disabled", disabled=True),
        key("sk-other-models", models=("other-*",)),
        key("sk-used-up", limits=KeyLimits(requests_per_minute=1)),
    ]
)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def house(runner):
    """One for all of them, with keys, and one request of the minute's one used up."""
    context = make_house(max_body_bytes=100_000)
    built = runner.run(context.__aenter__())

    async def prepare() -> None:
        built.control.change(keys=KEYS, has_keys=True)
        await built.until(lambda snapshot: snapshot.configuration.keys == KEYS)
        built.client.headers["x-api-key"] = "sk-used-up"
        assert (await built.chat()).status_code == 200

    runner.run(prepare())
    yield built
    runner.run(context.__aexit__(None, None, None))


CASES = [
    (path, secret)
    for path in INFERENCE
    for secret in REFUSALS
    if (path, secret) != ("/v1/embeddings", "sk-used-up")  # the model does none, which is said first
]


@pytest.mark.parametrize(("path", "secret"), CASES)
def test_a_key_that_does_not_do(runner, house, path, secret):
    status, kind, code, anthropic_kind = REFUSALS[secret]
    headers = {"x-api-key": secret} if secret else {"x-api-key": "", "authorization": ""}
    response = runner.run(house.client.post(path, json={"model": MODEL} | INFERENCE[path], headers=headers))
    assert response.status_code == status, response.text
    told = response.json()
    if path.startswith("/v1/messages"):
        assert (told["type"], told["error"]["type"]) == ("error", anthropic_kind)
    else:
        assert set(told["error"]) == {"message", "type", "code", "param"}
        assert (told["error"]["type"], told["error"]["code"]) == (kind, code)
    assert told["error"]["message"]
    assert response.headers["x-request-id"]
    if status == 429:
        assert 1 <= int(response.headers["retry-after"]) <= 60
        prefix = "anthropic-ratelimit-requests-" if "messages" in path else "x-ratelimit-"
        assert any(name.startswith(prefix) for name in response.headers)
    assert secret == "" or secret not in told["error"]["message"]


@pytest.mark.parametrize("path", INFERENCE)
def test_a_body_over_the_limit(runner, house, path):
    body = {"model": MODEL, "padding": "x" * 200_000} | INFERENCE[path]
    content = json.dumps(body).encode()

    async def in_chunks():
        for at in range(0, len(content), 50_000):
            yield content[at : at + 50_000]

    for sent in (content, in_chunks()):  # by what it says of itself, and by what comes
        response = runner.run(house.client.post(path, content=sent, headers={"x-api-key": "sk-good"}))
        assert response.status_code == 413, response.text
        told = response.json()
        if path.startswith("/v1/messages"):
            assert (told["type"], told["error"]["type"]) == ("error", "request_too_large")
        else:
            assert (told["error"]["type"], told["error"]["code"]) == (
                "invalid_request_error",
                "request_too_large",
            )
        assert "100000" in told["error"]["message"]


@pytest.mark.parametrize("path", INFERENCE)
def test_a_model_that_nobody_knows(runner, house, path):
    body = {"model": "nope"} | INFERENCE[path]
    response = runner.run(house.client.post(path, json=body, headers={"x-api-key": "sk-good"}))
    assert response.status_code == 404
    assert "nope" in response.json()["error"]["message"]


def test_the_sdks_raise_what_they_raise_for_their_own_servers(runner, house):
    url = f"http://127.0.0.1:{house.port}"

    async def openai_raises(secret: str, model: str = MODEL) -> openai.APIStatusError:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(model=model, messages=TURN)
            return caught.value

    async def anthropic_raises(secret: str, model: str = MODEL) -> anthropic.APIStatusError:
        async with anthropic.AsyncAnthropic(base_url=url, api_key=secret, max_retries=0) as client:
            with pytest.raises(anthropic.APIStatusError) as caught:
                await client.messages.create(model=model, messages=TURN, max_tokens=9)
            return caught.value

    for module, raises in ((openai, openai_raises), (anthropic, anthropic_raises)):
        assert isinstance(runner.run(raises("sk-unknown")), module.AuthenticationError)
        assert isinstance(runner.run(raises("sk-disabled")), module.PermissionDeniedError)
        assert isinstance(runner.run(raises("sk-good", "nope")), module.NotFoundError)
        assert isinstance(runner.run(raises("sk-used-up")), module.RateLimitError)


def rejected(code: str) -> float:
    return REGISTRY.get_sample_value("cortex_requests_rejected_total", {"code": code}) or 0.0


async def raw(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"\x00\x01garbage\r\n\r\n", 400, "invalid_request"),
        (b"POST http://[ HTTP/1.1\r\nhost: a\r\n\r\n", 400, "invalid_request"),
        (b"GET /v1/nothing HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 404, "not_found"),
        (
            b"GET /v1/messages HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            405,
            "method_not_allowed",
        ),
        (b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 401, "invalid_api_key"),
        (
            b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 999999\r\n\r\n",
            413,
            "request_too_large",
        ),
        (  # no byte of the body is waited for
            b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 50000\r\n\r\n",
            401,
            "invalid_api_key",
        ),
        (b"POST /v1/messages HTTP/1.1\r\ncontent-length: 5\r\n\r\n", 400, "invalid_request"),
    ],
)
def test_a_request_that_reached_no_endpoint_is_counted_too(runner, house, data, status, code):
    before = rejected(code)
    answer = runner.run(raw(house.port, data))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert rejected(code) == before + 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_model_of_many_characters_is_not_repeated(path):
    async with make_house() as house:
        name = "m" * 3_000_000
        response = await house.client.post(path, json=INFERENCE[path] | {"model": name})
        assert response.status_code == 404
        assert len(response.content) < 5_000
        assert "GET /v1/models" in response.json()["error"]["message"]
        assert len((await house.record()).model) < 300

"""`neuron serve --join` and a scripted control plane."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import httpx
import pytest

from neuron.config import NeuronConfig
from neuron.membership import JoinRefusedError, Membership, endpoint_for
from neuron.wire import PROTOCOL
from tests.neuron.conftest import until
from tests.stubs.fake_node import FakeNode, head

SECRET = "a-secret-of-its-own"


def say(writer, status: int, body: object) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    writer.write(head(status, content_length=len(data)) + data)


class Cortex(FakeNode):
    """Admits every node with the token; `known` are the names that joined."""

    def __init__(self) -> None:
        super().__init__("cortex")
        self.known: set[str] = set()
        self.refusal: tuple[int, object] | None = None
        self.answer = self._let_in

    async def _let_in(self, request, writer) -> None:
        name = request.json["name"]
        if self.refusal:
            say(writer, *self.refusal)
        elif request.path == "/api/join":
            self.known.add(name)
            say(writer, 200, {"name": name, "heartbeat_s": 0.02})
        elif name in self.known:
            say(writer, 204, b"")
        else:
            say(writer, 404, {"error": {"code": "node_not_found", "message": "no"}})

    def asked(self, path: str) -> list:
        return [request for request in self.requests if request.path == path]


@pytest.fixture
async def cortex():
    made = Cortex()
    await made.start()
    yield made
    await made.stop()


def member(cortex: Cortex) -> Membership:
    return Membership(cortex.url, "join-token", name="beast", endpoint="http://b:13131", secret=SECRET)


async def test_node_joins_with_the_token_and_sends_heartbeats_with_its_secret(cortex):
    async def beats():
        return len(cortex.asked("/api/join/heartbeat")) > 2

    membership = member(cortex)
    await membership.try_once()
    (joined,) = cortex.asked("/api/join")
    assert joined.headers["authorization"] == "bearer join-token"
    wish = {"name": "beast", "endpoint": "http://b:13131", "token": SECRET, "protocol": PROTOCOL}
    assert wish.items() <= joined.json.items()
    running = asyncio.create_task(membership.run())
    await until(beats)
    assert cortex.requests[-1].headers["authorization"] == f"bearer {SECRET}"
    cortex.known.clear()  # it dropped out: it comes back by itself

    async def back():
        return len(cortex.asked("/api/join")) == 2 and cortex.known

    await until(back)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_node_waits_for_a_cortex_that_does_not_answer(cortex, monkeypatch):
    monkeypatch.setattr("neuron.membership.RETRY_S", 0.02)
    membership = member(cortex)
    await cortex.stop()
    await membership.try_once()
    cortex.refusal = (503, b"")
    await cortex.start()
    running = asyncio.create_task(membership.run())

    async def refused():
        return cortex.requests

    async def joined():
        return cortex.known

    await until(refused)
    cortex.refusal = None
    await until(joined)
    running.cancel()


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, {"error": {"code": "invalid_join_token", "message": "It is expired; make one"}}), "expired"),
        ((409, {"error": {"code": "name_taken", "message": "another --name"}}), "another --name"),
        ((404, {"error": {"code": "not_found", "message": "no"}}), "port 31315"),
        ((405, b"<html>"), "port 31315"),
        ((400, b"<h1>Bad Request</h1>"), "add '127.0.0.1' to [admin] allowed_hosts"),
        ((200, b"<html>"), "is not a cortex"),
    ],
)
async def test_refusal_of_cortex_says_what_to_do(cortex, refusal, words):
    cortex.refusal = refusal
    with pytest.raises(JoinRefusedError) as refused:
        await member(cortex).try_once()
    assert words in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "host", "endpoint"),
    [
        ("http://127.0.0.1:31315", "127.0.0.1", "http://127.0.0.1:1"),
        ("http://127.0.0.1:31315", "0.0.0.0", "http://127.0.0.1:1"),  # noqa: S104
        ("http://192.0.2.1", "10.0.0.7", "http://10.0.0.7:1"),
        ("http://[::1]:5", "::", "http://[::1]:1"),
    ],
)
def test_endpoint_is_an_address_that_cortex_can_reach(url, host, endpoint):
    assert endpoint_for(url, host, 1) == endpoint
    assert endpoint_for(url, host, 1, tls=True) == endpoint.replace("http:", "https:")


@pytest.mark.parametrize(
    ("url", "host", "words"),
    [
        ("http://192.0.2.1:31315", "127.0.0.1", "--listen 0.0.0.0:1"),
        ("cortex:31315", "127.0.0.1", "expected a URL"),
        ("http://no.such.host.invalid", "0.0.0.0", "cannot reach no.such.host.invalid"),  # noqa: S104
    ],
)
def test_unreachable_endpoint_is_refused(url, host, words):
    with pytest.raises(JoinRefusedError, match=words):
        endpoint_for(url, host, 1)


@pytest.mark.parametrize("field", [{"secret": "short"}, {"name": "a b"}])
def test_invalid_membership_is_named_without_its_value(field):
    with pytest.raises(JoinRefusedError) as refused:
        Membership("http://c", "t", **{"name": "a", "endpoint": "http://a", "secret": SECRET} | field)
    assert "short" not in str(refused.value)


def join_of(cortex: Cortex) -> tuple[str, ...]:
    return "--join", cortex.url, "--token", "join-token"


async def serve(*arguments: str, **env: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "neuron.cli", "serve", "--listen", "127.0.0.1:0", *arguments]
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | env
    )


async def test_a_refused_token_is_one_line_and_not_exit_code_0(cortex):
    cortex.refusal = (401, {"error": {"code": "invalid_join_token", "message": "It is expired; make one"}})
    process = await serve("--join", cortex.url, "--token", "join-token")
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode() == f"neuron: cannot join {cortex.url}: It is expired; make one\n"


async def test_a_url_without_a_token_is_one_line():
    process = await serve("--join", "http://127.0.0.1:9")
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert "cortex join-token" in errors.decode()


@pytest.mark.parametrize(("listen", "needs_token"), [("127.0.0.1:0", False), ("0.0.0.0:0", True)])
async def test_serve_joins_and_its_api_requires_the_secret(cortex, listen, needs_token):
    process = await serve("--name", "beast", "--listen", listen, *join_of(cortex))

    async def beats():
        return cortex.asked("/api/join/heartbeat")

    try:
        await until(beats)
        joined = cortex.asked("/api/join")[0].json
        async with httpx.AsyncClient(base_url=joined["endpoint"]) as http:
            assert (await http.get("/version")).status_code == (401 if needs_token else 200)
            headers = {"authorization": f"Bearer {joined['token']}"}
            assert (await http.get("/version", headers=headers)).json()["protocol"] == PROTOCOL
    finally:
        process.terminate()
        _, log = await process.communicate()
    assert process.returncode == 0
    assert joined["token"] not in log.decode()
    assert "join-token" not in log.decode()


async def test_environment_variables_join_too(cortex):
    process = await serve(NEURON_JOIN__URL=cortex.url, NEURON_JOIN__TOKEN="join-token", NEURON_TOKEN="x" * 20)

    async def joined():
        return cortex.known

    try:
        await until(joined)
        assert cortex.asked("/api/join")[0].json["token"] == "x" * 20  # the one of its configuration
    finally:
        process.terminate()
        await process.communicate()


def test_repr_hides_the_join_token():
    assert "join-secret" not in repr(NeuronConfig(join={"token": "join-secret"}))

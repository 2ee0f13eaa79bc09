from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from helexa_acp.cancellation import CancelToken
from helexa_acp.config import parse_config
from helexa_acp.endpoint import Endpoint, join_url
from helexa_acp.provider import failover
from helexa_acp.provider.endpoints import Endpoints
from helexa_acp.provider.errors import (
    AuthFailedError,
    ContextTooLongError,
    OverloadedError,
    RejectedError,
    UnreachableError,
)
from helexa_acp.provider.failover import Switched
from helexa_acp.provider.http import HttpProvider
from helexa_acp.provider.quirks import QuirkBook
from helexa_acp.provider.types import CompletionRequest, Message, ProgressUpdate, Role, TextDelta
from helexa_acp.provider.wires.registry import ADAPTERS

REQUEST = CompletionRequest("m", (Message.of(Role.USER, "hi"),), max_tokens=5, temperature=1.0)


def sse(*payloads):
    body = "".join(p if isinstance(p, str) else f"data: {json.dumps(p)}\n\n" for p in payloads)
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=body)


def text(*pieces):
    return sse(*({"choices": [{"delta": {"content": p}}]} for p in pieces), "data: [DONE]\n\n")


class FakeServer:
    """Gives its answers in turn, the last one repeatedly, and keeps the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def bodies(self):
        return [json.loads(request.content) for request in self.asked]


@pytest.fixture
def book(tmp_path):
    return QuirkBook(tmp_path / "quirks.json")


def provider(server, book, wire="openai-chat", **more):
    endpoint = Endpoint("e", "http://host/v1/", wire, api_key=more.pop("api_key", None), **more)
    client = lambda: httpx.AsyncClient(transport=httpx.MockTransport(server))  # noqa: E731
    return HttpProvider(endpoint, ADAPTERS[wire](), book, client=client, backoff_s=0)


async def collect(provider, cancel=None):
    return [event async for event in provider.complete(REQUEST, cancel or CancelToken())]


async def test_a_completion_is_streamed(book):
    server = FakeServer(text("Hel", "lo"))
    events = await collect(provider(server, book, api_key="secret"))
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["Hel", "lo"]
    assert str(server.asked[0].url) == "http://host/v1/chat/completions"
    assert server.asked[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("said", "sent"),
    [("a\ud83d\ude00b", "a\U0001f600b"), ("a\ud83db", "a\ufffdb"), ("\ude00\ud83d", "\ufffd\ufffd")],
)
async def test_lone_surrogates_are_joined_or_replaced(book, said, sent):
    """Once a hostile model has written one, it is part of the history."""
    server = FakeServer(text("x"))
    request = replace(REQUEST, messages=[Message.of(Role.USER, said)])
    assert [event async for event in provider(server, book).complete(request, CancelToken())]
    assert server.asked[0].headers["content-type"] == "application/json"
    assert json.loads(server.asked[0].content)["messages"][0]["content"] == sent


async def test_without_a_key_no_header_is_sent(book):
    server = FakeServer(text("x"))
    await collect(provider(server, book))
    assert "authorization" not in server.asked[0].headers


async def test_anthropic_requests_carry_key_and_version(book):
    server = FakeServer(sse({"type": "message_stop"}))
    await collect(provider(server, book, "anthropic-messages", api_key="secret"))
    assert server.asked[0].headers["x-api-key"] == "secret"
    assert server.asked[0].headers["anthropic-version"] == "2023-06-01"


def test_constructing_a_provider_opens_no_client(book):
    def never():
        raise AssertionError

    assert (
        HttpProvider(Endpoint("e", "http://host/v1"), ADAPTERS["openai-chat"](), book, client=never).name
        == "e"
    )


@pytest.mark.parametrize("base", ["http://h/v1", "http://h/v1/"])
def test_urls_join_with_and_without_a_slash(base):
    assert join_url(base, "models") == "http://h/v1/models"


async def test_a_request_cancelled_beforehand_is_not_sent(book):
    server, cancel = FakeServer(text("x")), CancelToken()
    cancel.cancel()
    assert await collect(provider(server, book), cancel) == []
    assert server.asked == []


async def test_cancel_ends_the_stream_though_data_is_ready(book):
    cancel, seen = CancelToken(), []
    async for event in provider(FakeServer(text("a", "b", "c")), book).complete(REQUEST, cancel):
        seen.append(event)
        cancel.cancel()
    assert seen == [TextDelta("a")]


async def test_cancel_while_the_server_thinks_closes_the_connection(book):
    begun, closed = asyncio.Event(), asyncio.Event()

    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self):
            begun.set()
            yield b": thinking\n\n"
            await asyncio.Event().wait()

        async def aclose(self):
            closed.set()

    cancel = CancelToken()
    headers = {"content-type": "text/event-stream"}
    server = FakeServer(httpx.Response(200, headers=headers, stream=Slow()))
    task = asyncio.create_task(collect(provider(server, book), cancel))
    await begun.wait()
    cancel.cancel()
    assert await task == []
    assert closed.is_set()


LESSONS = [
    ("Unrecognized request argument supplied: stream_options", "stream_options", None),
    (
        "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        "max_tokens",
        "max_completion_tokens",
    ),
    ("temperature does not support 1.0 with this model", "temperature", None),
]


@pytest.mark.parametrize(("words", "gone", "there"), LESSONS)
async def test_a_quirk_is_learned_once_and_remembered(book, tmp_path, words, gone, there):
    refusal = httpx.Response(400, json={"error": {"message": words}})
    server = FakeServer(refusal, text("x"))
    assert await collect(provider(server, book))
    first, second = server.bodies()
    assert gone in first
    assert gone not in second
    assert there is None or there in second
    later = FakeServer(text("y"))
    await collect(provider(later, QuirkBook(tmp_path / "quirks.json")))
    assert gone not in later.bodies()[0]


async def test_several_quirks_are_learned_in_a_row(book):
    refusals = [httpx.Response(400, text=words) for words, _, _ in LESSONS]
    server = FakeServer(*refusals, text("x"))
    assert await collect(provider(server, book))
    assert len(server.asked) == 4


async def test_a_quirk_that_does_not_help_is_not_remembered(book):
    server = FakeServer(
        httpx.Response(400, text="bad stream_options"), httpx.Response(400, text="something else")
    )
    with pytest.raises(RejectedError, match="something else"):
        await collect(provider(server, book))
    assert provider(server, book).quirks("m").stream_options


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(401, json={"error": {"message": "no key"}}), AuthFailedError),
        (httpx.Response(404, json={"error": {"message": "no such model"}}), RejectedError),
        (
            httpx.Response(400, json={"error": {"code": "context_length_exceeded", "message": "x"}}),
            ContextTooLongError,
        ),
        (httpx.Response(503, text="<html>busy</html>"), OverloadedError),
        (httpx.ConnectError("refused"), UnreachableError),
        (
            httpx.Response(200, text="<html>login</html>", headers={"content-type": "text/html"}),
            UnreachableError,
        ),
        (sse({"choices": [{"delta": {"content": "a"}}]}), UnreachableError),
    ],
)
async def test_failed_answers_become_errors(book, answer, error):
    with pytest.raises(error) as caught:
        await collect(provider(FakeServer(answer), book))
    assert caught.value.endpoint == "e"
    assert caught.value.model == "m"


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(429, headers={"retry-after": "0"}), httpx.Response(500), httpx.ConnectError("x")],
)
async def test_a_request_is_retried_before_the_first_token(book, answer):
    server = FakeServer(answer, answer, text("x"))
    assert TextDelta("x") in await collect(provider(server, book))
    assert len(server.asked) == 3


async def test_a_request_is_not_retried_after_the_first_token(book):
    server = FakeServer(sse({"choices": [{"delta": {"content": "a"}}]}))
    events = provider(server, book).complete(REQUEST, CancelToken())
    assert await anext(events) == TextDelta("a")
    with pytest.raises(UnreachableError):
        await anext(events)
    assert len(server.asked) == 1


async def test_progress_comments_are_not_part_of_the_answer(book):
    body = ": keep-alive\n\n: loading 43 %\n\n"
    server = FakeServer(sse(body, {"choices": [{"delta": {"content": "a"}}]}, "data: [DONE]\n\n"))
    assert (await collect(provider(server, book)))[:2] == [ProgressUpdate("loading 43 %"), TextDelta("a")]


async def test_a_silent_server_times_out(book):
    class Silent(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
            await asyncio.Event().wait()

    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Silent())
    with pytest.raises(UnreachableError, match="no answer for"):
        await collect(provider(FakeServer(response), book, idle_timeout_s=0.01))


async def test_an_answer_that_is_not_streamed_is_decoded(book):
    answer = httpx.Response(200, json={"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})
    assert (await collect(provider(FakeServer(answer), book)))[0] == TextDelta("hi")


@pytest.mark.parametrize(
    ("body", "first"),
    [
        ({"data": [{"id": "a", "context_length": 9}]}, ("a", 9)),
        ([{"id": "a", "max_model_len": 9}], ("a", 9)),
        ({"models": [{"name": "a", "meta": {"n_ctx_train": 9}}]}, ("a", 9)),
        ({"data": [{"id": "a", "limit": {"context": 9}, "loaded": True}]}, ("a", 9)),
    ],
)
async def test_lists_of_models_may_have_several_shapes(book, body, first):
    models = await provider(FakeServer(httpx.Response(200, json=body)), book).list_models()
    assert (models[0].id, models[0].context_window) == first


@pytest.mark.parametrize(
    ("wire", "path", "answer"),
    [
        ("openai-chat", "/tokenize", {"count": 7}),
        ("anthropic-messages", "/v1/messages/count_tokens", {"input_tokens": 7}),
    ],
)
async def test_the_server_counts_the_tokens_of_a_prompt(book, wire, path, answer):
    server = FakeServer(httpx.Response(200, json=answer))
    assert await provider(server, book, wire).count_tokens(REQUEST) == 7
    assert server.asked[0].url.path == path


@pytest.mark.parametrize("answer", [httpx.Response(404), httpx.Response(200, json={"tokens": [1]})])
async def test_a_server_that_cannot_count_is_asked_once(book, tmp_path, answer):
    server = FakeServer(answer)
    assert await provider(server, book).count_tokens(REQUEST) is None
    assert [request.url.path for request in server.asked] == ["/tokenize", "/v1/tokenize"]
    later = FakeServer(httpx.Response(200, json={"count": 7}))
    assert await provider(later, QuirkBook(tmp_path / "quirks.json")).count_tokens(REQUEST) is None
    assert later.asked == []


@pytest.mark.parametrize("answer", [httpx.Response(503), httpx.Response(401), httpx.ConnectError("x")])
async def test_a_server_that_cannot_count_now_is_asked_again(book, answer):
    server = FakeServer(answer, answer, httpx.Response(200, json={"count": 7}))
    it = provider(server, book)
    assert await it.count_tokens(REQUEST) is None
    assert await it.count_tokens(REQUEST) == 7


# Failover


def two_endpoints(tmp_path, first, second):
    table = {
        "endpoints": [
            {"name": "a", "base_url": "http://a/v1", "default_model": "x", "fallback": ["b:y"]},
            {"name": "b", "base_url": "http://b/v1", "wire_api": "anthropic-messages"},
        ]
    }
    servers = {"a": first, "b": second}

    def make(endpoint, book):
        client = lambda: httpx.AsyncClient(transport=httpx.MockTransport(servers[endpoint.name]))  # noqa: E731
        return HttpProvider(endpoint, ADAPTERS[endpoint.wire_api](), book, client=client, backoff_s=0)

    return Endpoints(parse_config(table, source="test", env={}), QuirkBook(None), None, make)


async def test_failover_before_the_first_token_is_announced(tmp_path):
    other = FakeServer(sse({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}},
                           {"type": "message_stop"}))  # fmt: skip
    endpoints = two_endpoints(tmp_path, FakeServer(httpx.Response(503)), other)
    choice = endpoints.default()
    events = [e async for e in failover.complete(endpoints, choice, REQUEST, CancelToken())]
    assert isinstance(events[0], Switched)
    assert events[0].choice.tag == "b:y"
    assert events[1] == TextDelta("hi")
    assert other.bodies()[0]["model"] == "y"


async def test_there_is_no_failover_after_the_first_token(tmp_path):
    other = FakeServer(text("no"))
    endpoints = two_endpoints(tmp_path, FakeServer(sse({"choices": [{"delta": {"content": "a"}}]})), other)
    with pytest.raises(UnreachableError):
        [e async for e in failover.complete(endpoints, endpoints.default(), REQUEST, CancelToken())]
    assert other.asked == []


async def test_a_refusal_does_not_fail_over(tmp_path):
    other = FakeServer(text("no"))
    endpoints = two_endpoints(tmp_path, FakeServer(httpx.Response(400, text="bad thing")), other)
    with pytest.raises(RejectedError):
        [e async for e in failover.complete(endpoints, endpoints.default(), REQUEST, CancelToken())]
    assert other.asked == []


async def test_a_dead_endpoint_delays_nothing_and_shows_as_unreachable(tmp_path):
    models = httpx.Response(200, json={"data": [{"id": "y"}, {"id": "z"}]})
    endpoints = two_endpoints(tmp_path, FakeServer(httpx.ConnectError("dead")), FakeServer(models))
    changed = []
    endpoints.on_change = lambda: changed.append(1)
    endpoints.refresh()
    assert [m.id for m in endpoints.models(endpoints.config.endpoints[0])] == ["x"]
    await endpoints.settle()
    assert len(changed) == 2  # one listed its models, one is unreachable
    assert [m.id for m in endpoints.models(endpoints.config.endpoints[1])] == ["y", "z"]
    assert "dead" in endpoints.refresh_errors["a"]
    await endpoints.aclose()

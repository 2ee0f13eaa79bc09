from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import Router

from cortex_site.http.response import StreamResponse, Write
from neuron.api import prepare
from neuron.api.answers import collect, stream
from neuron.api.chat_request import ChatBody, decode
from neuron.api.completion import ChatChoice, Chunks, chat_choice, whole
from neuron.api.edge import caller, log_fields, request_id
from neuron.api.logprobs import chat_shape
from neuron.api.node import EVENT_STREAM
from neuron.api.run import Run, start, total_usage
from neuron.api.schemas import body_of
from neuron.daemon import Daemon
from neuron.harness import Served


def router(daemon: Daemon) -> Router:
    chat = Router(tags=["inference"])

    @chat.post("/v1/chat/completions", openapi_extra=body_of(ChatBody))
    async def chat_completions(request: HttpRequest) -> HttpResponseBase:
        """OpenAI's chat completion, streamed or not."""
        body = decode(request.body)
        model = find(daemon, request, body.model)
        prepared = await prepare.prepare(body, model, request.body)
        (runs,) = start([prepared], model, daemon.config.stream, log_fields(request), caller=caller(request))
        answer_id = f"chatcmpl-{request_id(request)}"
        if not body.stream:
            return await _complete(body, model, runs, answer_id)
        await runs[0].wait_for_head()
        return _streamed(body, model, runs, answer_id)

    return chat


def find(daemon: Daemon, request: HttpRequest, model: str | msgspec.UnsetType) -> Served:
    assert isinstance(model, str)  # decoding saw to it
    log_fields(request)["model"] = model
    return daemon.registry.served(model)


async def _complete(body: ChatBody, model: Served, runs: Sequence[Run], answer_id: str) -> HttpResponse:
    choices: list[dict[str, Any]] = []
    for index, (run, piece) in enumerate(zip(runs, await collect(runs), strict=True)):
        logprobs = chat_shape(piece.drawn, model.text.token_bytes) if body.logprobs else None
        choices.append(chat_choice(index, piece.events, logprobs, run.finish_reason))
    content = whole(answer_id, model.id, "chat.completion", choices=choices, used=total_usage([runs]))
    return HttpResponse(content, content_type="application/json")


def _streamed(body: ChatBody, model: Served, runs: Sequence[Run], answer_id: str) -> StreamResponse:
    chunks = Chunks(answer_id, model.id, "chat.completion.chunk", include_usage=body.include_usage)

    def shape(drawn: Any) -> Any:
        return chat_shape(drawn, model.text.token_bytes)

    choices = [ChatChoice(index, chunks, shape if body.logprobs else None) for index in range(len(runs))]

    async def produce(write: Write) -> None:
        await stream(runs, choices, write)

    async def produce_with_usage(write: Write) -> None:
        await stream(runs, choices, write, lambda: chunks.usage(total_usage([runs])))

    return StreamResponse(produce_with_usage if body.include_usage else produce, headers=EVENT_STREAM)

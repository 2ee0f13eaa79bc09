"""`POST /v1/chat/completions`: a chat answered by a model, as one object or as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import Router

from cortex_site.http.response import StreamResponse, Write
from neuron import sse
from neuron.api.answers.chat import ChatChoiceWriter, chat_choice
from neuron.api.answers.choice import AnswerChoice, collect, prompt_choices, start_choices
from neuron.api.answers.chunks import ChunkEncoder, whole_answer
from neuron.api.answers.logprobs import DrawnToken, chat_shape
from neuron.api.answers.stream import stream
from neuron.api.answers.usage import total_usage
from neuron.api.bodies.chat import ChatBody, decode
from neuron.api.bodies.openapi import body_of
from neuron.api.prompts.chat import ChatRenderer, chat_prompt, tool_definitions
from neuron.api.prompts.checks import GRAMMAR_CODES, Checks
from neuron.api.prompts.constraint import answer_constraint, constraining_param, constraint_grammar
from neuron.api.prompts.prompt import require_capability
from neuron.api.prompts.submits import submits
from neuron.api.request import caller, find_model, log_fields, request_id, tell_unenforced
from neuron.config import StreamSettings
from neuron.daemon import Daemon
from neuron.harness import LocalModel
from neuron.text.answer import AnswerStream


def router(daemon: Daemon) -> Router:
    chat = Router(tags=["inference"])

    @chat.post("/v1/chat/completions", openapi_extra=body_of(ChatBody))
    async def chat_completions(request: HttpRequest) -> HttpResponseBase:
        """OpenAI's chat completion, streamed or not."""
        body = decode(request.body)
        model = find_model(daemon.registry, request, body.model)
        principal = caller(request).principal
        checks = Checks(daemon.verdicts, principal)
        renderer = ChatRenderer(daemon.templates, daemon.videos, principal)
        choices, headers = await _choices(request, body, model, checks, renderer)
        start_choices([choices])
        answer_id = f"chatcmpl-{request_id(request)}"
        if not body.stream:
            return await _whole(body, model, choices, answer_id, headers)
        settings = daemon.config.stream
        await choices[0].wait_for_head(settings.head_wait_s)
        return _streamed(body, model, choices, answer_id, settings, headers)

    return chat


async def _choices(
    request: HttpRequest, body: ChatBody, model: LocalModel, checks: Checks, renderer: ChatRenderer
) -> tuple[list[AnswerChoice], dict[str, str]]:
    """The choices of the chat, and the headers that tell what became of it.

    Raises `ApiError` that names what cannot be done.
    """
    require_capability(model, "chat")
    tools = tool_definitions(body, model)
    constraint = await answer_constraint(body, checks)
    prompt = await chat_prompt(body, model, tools, renderer, request.body)
    grammar = None
    if constraint is not None:
        grammar = await constraint_grammar(body, model, constraint, prompt.text, checks)
    tell_unenforced(request, checks.unenforced)
    schemas = {tool.function.name: tool.function.parameters or {} for tool in body.tools or ()}

    def read() -> AnswerStream:
        return model.text.answer(
            prompt.text,
            stops=body.stops,
            min_tokens=body.min_tokens or 0,
            tools=None if tools is None else schemas,
            max_calls=1 if body.parallel_tool_calls is False else None,
            calls_before=prompt.num_calls,
        )

    headers = prompt.headers
    log_fields(request).update({name.removeprefix("x-cortex-"): text for name, text in headers.items()})
    choices = prompt_choices(
        submits(body, model, prompt, caller(request), grammar=grammar),
        read,
        model,
        log_fields(request),
        blame=dict.fromkeys(GRAMMAR_CODES, constraining_param(body))
        | {"context_length_exceeded": "messages"},
    )
    return choices, headers


async def _whole(
    body: ChatBody,
    model: LocalModel,
    choices: Sequence[AnswerChoice],
    answer_id: str,
    headers: dict[str, str],
) -> HttpResponse:
    written: list[dict[str, Any]] = []
    for index, (choice, delta) in enumerate(zip(choices, await collect(choices), strict=True)):
        logprobs = chat_shape(delta.drawn, model.text.token_bytes) if body.logprobs else None
        written.append(chat_choice(index, delta.events, logprobs, choice.ending))
    used = total_usage([[choice.usage for choice in choices]])
    content = whole_answer(answer_id, model.id, "chat.completion", choices=written, used=used)
    return HttpResponse(content, content_type="application/json", headers=headers)


def _streamed(
    body: ChatBody,
    model: LocalModel,
    choices: Sequence[AnswerChoice],
    answer_id: str,
    settings: StreamSettings,
    headers: dict[str, str],
) -> StreamResponse:
    chunks = ChunkEncoder(answer_id, model.id, "chat.completion.chunk", include_usage=body.include_usage)

    def shape(drawn: Sequence[DrawnToken]) -> Any:
        return chat_shape(drawn, model.text.token_bytes)

    def usage() -> bytes:
        if not body.include_usage:
            return b""
        return chunks.usage(total_usage([[choice.usage for choice in choices]]))

    writers = [ChatChoiceWriter(i, chunks, shape if body.logprobs else None) for i in range(len(choices))]

    async def produce(write: Write) -> None:
        await stream(choices, writers, write, keepalive_s=settings.keepalive_s, usage=usage)

    return StreamResponse(produce, headers=sse.HEADERS | headers)

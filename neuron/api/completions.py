"""`POST /v1/completions`: texts and tokens continued as they stand, without a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import Router

from cortex_site.http.response import StreamResponse, Write
from neuron.api.answers import collect, stream
from neuron.api.chat import find
from neuron.api.completion import Chunks, whole
from neuron.api.completion_request import CompletionBody, decode
from neuron.api.decoding import invalid
from neuron.api.edge import caller, log_fields, request_id
from neuron.api.logprobs import Drawn, TextShape
from neuron.api.node import EVENT_STREAM
from neuron.api.prepare import encode, job
from neuron.api.run import Prepared, Run, start, total_usage
from neuron.api.schemas import body_of
from neuron.daemon import Daemon
from neuron.harness import Served
from neuron.pipe import Logprob
from neuron.text.events import Content, Event
from neuron.wire import ApiError

KIND = "text_completion"

Scored = tuple[int, Logprob | None]  # a token, and its logprob where it has one


def router(daemon: Daemon) -> Router:
    completions = Router(tags=["inference"])

    @completions.post("/v1/completions", openapi_extra=body_of(CompletionBody))
    async def complete_text(request: HttpRequest) -> HttpResponseBase:
        """OpenAI's completion, streamed or not: every prompt, each with `n` choices."""
        body = decode(request.body)
        model = find(daemon, request, body.model)
        prompts = await prepare(body, model)
        groups = start(prompts, model, daemon.config.stream, log_fields(request), caller=caller(request))
        echoes = [await _echo(body, model, index) for index in range(len(groups)) for _ in groups[index]]
        answer_id = f"cmpl-{request_id(request)}"
        if not body.stream:
            return await _complete(body, model, groups, echoes, answer_id)
        await groups[0][0].wait_for_head()
        return _streamed(body, model, groups, echoes, answer_id)

    return completions


async def prepare(body: CompletionBody, model: Served) -> list[list[Prepared]]:
    """The choices of each prompt. Raises `ApiError`."""
    require_generation(model)
    return [await _choices(body, model, index) for index in range(len(body.prompts))]


def require_generation(model: Served) -> None:
    if "embeddings" in model.capabilities:
        message = f"The model {model.id!r} does embeddings, not completions."
        raise ApiError(400, "wrong_modality", message, param="model")


async def _choices(body: CompletionBody, model: Served, index: int) -> list[Prepared]:
    tokens = await tokens_of(body, model, index)
    params = {"context_length_exceeded": "prompt", "invalid_request": "prompt"}
    return [
        Prepared(
            replace(
                job(body, model, tokens, choice=choice, top_logprobs=body.logprobs),
                score_prompt=body.scores_prompts and choice == 0,
            ),
            model.text.text_answer(stops=body.stops, min_tokens=body.min_tokens),
            params,
        )
        for choice in range(body.choices)
    ]


async def tokens_of(body: CompletionBody, model: Served, index: int) -> list[int]:
    prompt = body.prompts[index]
    tokens = await encode(model, prompt, is_rendered=False) if isinstance(prompt, str) else prompt
    if not tokens:
        raise invalid("prompt", "prompt: a prompt needs at least one token.")
    return tokens


async def _echo(body: CompletionBody, model: Served, index: int) -> str:
    if not body.echo:
        return ""
    prompt = body.prompts[index]
    return prompt if isinstance(prompt, str) else model.text.decode(prompt)


class TextChoice:
    """One choice, whole or as chunks."""

    def __init__(
        self, index: int, echo: str, *, scored: Run | None, chunks: Chunks | None, shape: TextShape | None
    ) -> None:
        self._index = index
        self._echo = echo
        self._scored = scored  # the run that brings the prompt's logprobs, where they are wanted
        self._chunks = chunks
        self._shape = shape
        self._is_open = False

    def begin(self) -> bytes:
        return b"" if self._scored else self._open()

    def _open(self) -> bytes:
        """The prompt, once: without logprobs at the beginning, with them as soon as they are known."""
        is_first, self._is_open = not self._is_open, True
        return self._chunk(self._echo, self._prompt()) if self._echo and is_first else b""

    def _prompt(self) -> Sequence[Scored]:
        return self._scored.scored_prompt if self._scored else ()

    def piece(self, events: Sequence[Event], drawn: Sequence[Drawn]) -> bytes:
        text = _joined(events)
        return self._open() + self._chunk(text, drawn) if text or drawn else b""

    def finish(self, reason: str) -> bytes:
        return self._open() + self._chunk("", finish_reason=reason)

    def whole(self, events: Sequence[Event], drawn: Sequence[Drawn], reason: str) -> dict[str, Any]:
        return self._choice(self._echo + _joined(events), [*self._prompt(), *drawn], reason)

    def _chunk(self, text: str, drawn: Sequence[Scored] = (), finish_reason: str | None = None) -> bytes:
        assert self._chunks
        return self._chunks.choice(self._choice(text, drawn, finish_reason))

    def _choice(self, text: str, drawn: Sequence[Scored], finish_reason: str | None) -> dict[str, Any]:
        logprobs = self._shape(drawn) if self._shape and drawn else None
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _joined(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))


def _choices_of(
    body: CompletionBody,
    model: Served,
    groups: Sequence[Sequence[Run]],
    echoes: Sequence[str],
    chunks: Chunks | None,
) -> list[TextChoice]:
    def shape() -> TextShape | None:
        return None if body.logprobs is None else TextShape(model.text.token_bytes, 0)

    scored = [group[0] if body.scores_prompts else None for group in groups for _ in group]
    return [
        TextChoice(index, echo, scored=run, chunks=chunks, shape=shape())
        for index, (echo, run) in enumerate(zip(echoes, scored, strict=True))
    ]


async def _complete(
    body: CompletionBody,
    model: Served,
    groups: Sequence[Sequence[Run]],
    echoes: Sequence[str],
    answer_id: str,
) -> HttpResponse:
    runs = [run for group in groups for run in group]
    written = zip(_choices_of(body, model, groups, echoes, None), runs, await collect(runs), strict=True)
    choices = [choice.whole(piece.events, piece.drawn, run.finish_reason) for choice, run, piece in written]
    content = whole(answer_id, model.id, KIND, choices=choices, used=total_usage(groups))
    return HttpResponse(content, content_type="application/json")


def _streamed(
    body: CompletionBody,
    model: Served,
    groups: Sequence[Sequence[Run]],
    echoes: Sequence[str],
    answer_id: str,
) -> StreamResponse:
    chunks = Chunks(answer_id, model.id, KIND, include_usage=body.include_usage)
    choices = _choices_of(body, model, groups, echoes, chunks)
    runs = [run for group in groups for run in group]

    def usage() -> bytes:
        return chunks.usage(total_usage(groups)) if body.include_usage else b""

    async def produce(write: Write) -> None:
        await stream(runs, choices, write, usage)

    return StreamResponse(produce, headers=EVENT_STREAM)

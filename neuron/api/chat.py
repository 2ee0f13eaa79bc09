from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import Router

from cortex_site.light import StreamResponse, Write
from neuron.api import completion, prepare
from neuron.api.chat_request import ChatBody, decode
from neuron.api.completion import Chunks
from neuron.api.edge import log_fields, request_id
from neuron.api.node import EVENT_STREAM
from neuron.config import Stream
from neuron.daemon import Daemon
from neuron.harness import Served
from neuron.pipe import Finished, Refused
from neuron.supervisor.generation import Generation
from neuron.text.answer import AnswerStream
from neuron.text.events import Event
from neuron.wire import ApiError

log = logging.getLogger("neuron.chat")

# The body is decoded by msgspec, so ninja has to be told what it is.
(_body_schema,), SCHEMAS = msgspec.json.schema_components(
    [ChatBody], ref_template="#/components/schemas/{name}"
)
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _body_schema}}}}


def router(daemon: Daemon) -> Router:
    chat = Router(tags=["inference"])

    @chat.post("/v1/chat/completions", openapi_extra=_BODY)
    async def chat_completions(request: HttpRequest) -> HttpResponseBase:
        """OpenAI's chat completion, streamed or not."""
        body = decode(request.body)
        model = _find(daemon, request, body)
        prepared = await prepare.prepare(body, model)
        run = Run(model.submit(prepared.job), prepared.answer, daemon.config.stream, log_fields(request))
        _cancel_with_request(run)
        answer_id = f"chatcmpl-{request_id(request)}"
        if not body.stream:
            return await _complete(run, answer_id, model.id)
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        await run.wait_for_head()
        chunks = Chunks(answer_id, model.id, include_usage=include_usage)

        async def produce(write: Write) -> None:
            await _stream(run, chunks, write, include_usage=include_usage)

        return StreamResponse(produce, headers=EVENT_STREAM)

    @chat.post("/tokenize", openapi_extra=_BODY)
    async def tokenize(request: HttpRequest) -> dict[str, Any]:
        """How many tokens the prompt of a chat request has, exactly as a completion would count them."""
        body = decode(request.body)
        model = _find(daemon, request, body)
        return {"model": model.id, "count": await prepare.count(body, model), "context": model.context}

    return chat


def _find(daemon: Daemon, request: HttpRequest, body: ChatBody) -> Served:
    assert isinstance(body.model, str)  # decode saw to it
    log_fields(request)["model"] = body.model
    return daemon.registry.served(body.model)


def _cancel_with_request(run: Run) -> None:
    """However the request's task ends (the client gone, in whatever phase), its generation ends with it."""
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda _: run.cancel())


class Run:
    """One request on its way: reads its generation through its answer stream. `fields` is its log line."""

    def __init__(
        self, generation: Generation, answer: AnswerStream, settings: Stream, fields: dict[str, Any]
    ) -> None:
        self._generation = generation
        self._answer = answer
        self._settings = settings
        self._fields = fields
        self._started = time.monotonic()
        self._first: list[int] | None = None

    def cancel(self) -> None:
        self._generation.cancel()

    async def wait_for_head(self) -> None:
        """Wait for the first tokens, so that an error before them has its own status. Raises `ApiError`."""
        self._first = await self._generation.read(self._settings.head_wait_s)
        if not self._first and isinstance(self._generation.end, Refused):
            raise _refusal(self._generation.end)

    async def events(self) -> AsyncGenerator[list[Event], None]:
        """The answer as it comes, in batches; an empty one is a sign of life. Ends, or raises `ApiError`."""
        try:
            async with aclosing(self._batches()) as batches:
                async for batch in batches:
                    yield batch
        except asyncio.CancelledError:
            self._fields["code"] = "client_gone"
            raise
        finally:
            self._fields["completion_tokens"] = self._answer.tokens
        if rest := self._answer.finish():
            yield rest
        end = self._generation.end
        if isinstance(end, Refused):
            raise _refusal(end)
        assert end is not None
        if end.reason == "cancelled" and not self._answer.is_stopped:
            raise ApiError(503, "cancelled", "The request was cancelled.")
        self._log_end(end)

    async def _batches(self) -> AsyncGenerator[list[Event], None]:
        tokens, self._first = self._first, None
        while True:
            if events := self._feed(tokens or []):
                yield events
            elif tokens is None:
                yield []
            if not tokens and self._generation.end is not None:
                return
            tokens = await self._generation.read(self._settings.keepalive_s)

    def _feed(self, tokens: list[int]) -> list[Event]:
        if tokens and not self._answer.tokens:
            self._fields["ttft_ms"] = round(1000 * (time.monotonic() - self._started), 1)
        events = [event for token in tokens for event in self._answer.feed(token)]
        if self._answer.is_stopped:
            self.cancel()
        return events

    def _log_end(self, end: Finished) -> None:
        used = self.usage
        self._fields |= {
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "cached_tokens": end.cached_tokens,
            "finish_reason": self.finish_reason,
        }

    @property
    def finish_reason(self) -> str:
        end = self._generation.end
        assert isinstance(end, Finished)
        if end.reason == "length" and not self._answer.is_stopped:
            return "length"
        return "tool_calls" if self._answer.has_calls else "stop"

    @property
    def usage(self) -> completion.Usage:
        end = self._generation.end
        assert isinstance(end, Finished)
        # what the engine made after a stop string was nobody's
        made = self._answer.tokens if self._answer.is_stopped else end.completion_tokens
        return completion.usage(
            prompt=end.prompt_tokens,
            completion=made,
            cached=end.cached_tokens,
            reasoning=self._answer.reasoning_tokens,
        )

    def note_error(self, error: ApiError) -> None:
        self._fields["code"] = error.code


def _refusal(end: Refused) -> ApiError:
    param = "messages" if end.code == "context_length_exceeded" else None
    return ApiError(end.status, end.code, end.message, param=param, retry_after_s=end.retry_after_s)


async def _complete(run: Run, answer_id: str, model_id: str) -> HttpResponse:
    async with aclosing(run.events()) as batches:
        events = [event async for batch in batches for event in batch]
    content = completion.completion(
        answer_id, model_id, events, finish_reason=run.finish_reason, used=run.usage
    )
    return HttpResponse(content, content_type="application/json")


async def _stream(run: Run, chunks: Chunks, write: Write, *, include_usage: bool) -> None:
    try:
        await write(chunks.role())
        async with aclosing(run.events()) as batches:
            async for batch in batches:
                await write(chunks.events(batch) or completion.KEEPALIVE)
        end = chunks.finish(run.finish_reason)
        if include_usage:
            end += chunks.usage(run.usage)
        await write(end + completion.DONE)
    except ApiError as error:
        run.note_error(error)
        await write(completion.error_event(error))
    except Exception:  # the head is sent: nobody else can tell the client
        log.exception("stream failed")
        bug = ApiError(500, "internal_error", "neuron made a mistake; its log has the details.")
        run.note_error(bug)
        await write(completion.error_event(bug))

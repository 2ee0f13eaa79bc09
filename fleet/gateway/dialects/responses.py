"""The Responses API: a dialect whose answers are stored, and the endpoints on stored responses."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from fleet import translation
from fleet.gateway.control.redis_link import LinkError
from fleet.gateway.dialects.base import AnswerRewriter, Call, EventStream, in_client_words
from fleet.gateway.dialects.chat import ChatDialect
from fleet.gateway.dialects.images import needed_capability
from fleet.gateway.dialects.response_store import ResponseStore
from fleet.gateway.record import metrics
from fleet.snapshot import KeyView
from fleet.translation.events import Event, Failure, Stop
from fleet.translation.responses import stored
from neuron.wire import ApiError

MAX_PAGE = 100  # OpenAI's

_NOT_FOUND = "There is no response {!r}: it was not stored, has expired, or was deleted."

T = TypeVar("T")


_WORDS = {
    r"messages\b.*": "input",
    "max_tokens": "max_output_tokens",
    r"tools\b.*": "tools",  # those of a namespace have other numbers
    r"tool_choice\.allowed_tools\.(tools\[\d+\])\.function": r"tool_choice.\1",
    r"tool_choice\.function": "tool_choice",
    r"tool_choice\.allowed_tools": "tool_choice",
    r"response_format(\.json_schema)?": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    r"chat_template_kwargs\b.*": "reasoning",
}


class ResponsesDialect(ChatDialect):
    """OpenAI Responses: translated to chat and back, stored unless the client says `store: false`."""

    name = "openai-responses"
    path = "/v1/responses"

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def decode(self, body: bytes, earlier: Sequence[msgspec.Raw] = ()) -> Call:
        call = translation.responses.to_chat(body, earlier)
        metrics.count_unknown(self.name, call.unknown_fields)
        needs, ignored = needed_capability(call.body), call.unknown_fields
        return Call(call.model, call.stream, call.body, needs=needs, origin=call, ignored=ignored)

    async def prepare(self, body: bytes, key: KeyView | None) -> Call:
        owner, earlier = owner_of(key), []
        if previous := stored.previous_of(body):
            found = await _ask(self._store.get(owner, previous))
            if found is None:
                message = _NOT_FOUND.format(previous)
                param = "previous_response_id"
                raise ApiError(400, "previous_response_not_found", message, param=param)
            earlier = stored.conversation(stored.decode(found))
        call = self.decode(body, earlier)
        return msgspec.structs.replace(call, origin=(call.origin, owner))

    def error_body(self, error: ApiError) -> bytes:
        return super().error_body(in_client_words(_WORDS, error))

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        asked, owner = call.origin
        return _ResponsesRewriter(asked, request_id, self._store, owner)


class _ResponsesRewriter(EventStream):
    is_verbatim = False

    def __init__(
        self,
        call: translation.responses.ResponsesCall,
        request_id: str,
        store: ResponseStore,
        owner: str,
    ) -> None:
        self._call = call
        self._ident = os.urandom(16).hex()
        self._store = store
        self._owner = owner
        self._created_at = int(time.time())
        self._started = False
        self._reader = translation.ChatReader(request_id=request_id)
        self._writer = translation.responses.ResponsesWriter(
            call, created_at=self._created_at, ident=self._ident
        )

    def feed(self, data: bytes) -> bytes:
        return self._write(self._reader.feed(data))

    def close(self) -> bytes:
        return self._write(self._reader.close())

    def _write(self, events: Sequence[Event]) -> bytes:
        self._started = self._started or bool(events)
        written = self._writer.write(events)
        if events and isinstance(events[-1], Stop):
            self._keep(self._writer.response)
        return written

    def fail(self, error: ApiError) -> bytes:
        if self._reader.over:
            return b""
        if not self._started:
            return translation.responses.error_event(error)
        return self._writer.write([Failure(error.status, error.code, error.message)])

    def whole(self, body: bytes) -> bytes:
        response = translation.responses.from_chat(
            body, self._call, created_at=self._created_at, ident=self._ident
        )
        self._keep(response)
        return msgspec.json.encode(response)

    def _keep(self, response: dict[str, Any]) -> None:
        if self._call.store:
            self._store.keep(self._owner, response["id"], stored.encode(self._call, response))


def owner_of(key: KeyView | None) -> str:
    """The owner of what a key stores. Clients without a key share one; response ids cannot be guessed."""
    return "anonymous" if key is None else key.digest


async def retrieve(store: ResponseStore, key: KeyView | None, ident: str) -> msgspec.Raw:
    return (await _found(store, key, ident)).response


async def delete(store: ResponseStore, key: KeyView | None, ident: str) -> dict[str, Any]:
    if not await _ask(store.delete(owner_of(key), ident)):
        raise _unknown(ident)
    return {"id": ident, "object": "response", "deleted": True}


async def cancel(store: ResponseStore, key: KeyView | None, ident: str) -> NoReturn:
    """Raises `ApiError`: only a response in the background can be cancelled, and cortex runs none there."""
    await _found(store, key, ident)
    message = "Only a response in the background can be cancelled; to end a stream, close its connection."
    raise ApiError(400, "not_in_background", message)


async def input_items(
    store: ResponseStore, key: KeyView | None, ident: str, *, after: str | None, limit: str, order: str
) -> dict[str, Any]:
    """A page of the input items of a response. Raises `ApiError`."""
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MAX_PAGE:
        raise ApiError(400, "invalid_value", f"limit: from 1 to {MAX_PAGE}.", param="limit")
    if order not in {"asc", "desc"}:
        raise ApiError(400, "invalid_value", "order: 'asc' or 'desc'.", param="order")
    items = (await _found(store, key, ident)).input
    page = stored.page(items, after=after, limit=int(limit), newest_first=order == "desc")
    if page is None:
        raise ApiError(400, "invalid_value", f"after: {after!r} is none of the items.", param="after")
    return page


async def _found(store: ResponseStore, key: KeyView | None, ident: str) -> stored.Stored:
    data = await _ask(store.get(owner_of(key), ident))
    if data is None:
        raise _unknown(ident)
    return stored.decode(data)


async def _ask(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except LinkError as error:
        message = f"Stored responses cannot be reached: {error}. Requests that need none are served."
        raise ApiError(503, "response_store_away", message, retry_after_s=3) from error


def _unknown(ident: str) -> ApiError:
    message = _NOT_FOUND.format(ident)
    return ApiError(404, "response_not_found", message)

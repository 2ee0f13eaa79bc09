"""The Responses API: a dialect whose answers are stored, and its requests to count and to compact."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import msgspec
from django.conf import settings

from fleet import translation
from fleet.gateway.dialects.base import AnswerRewriter, Call, EventStream, in_client_words
from fleet.gateway.dialects.chat import TOKENIZE, ChatDialect, CountRewriter, Verbatim
from fleet.gateway.dialects.conversations import Conversations
from fleet.gateway.dialects.images import needed_capability
from fleet.gateway.dialects.kept_items import ask, owner_of
from fleet.gateway.dialects.response_store import ResponseStore
from fleet.gateway.record import metrics
from fleet.snapshot import KeyView
from fleet.translation.events import Event, Failure, Stop
from fleet.translation.responses import ResponsesCall, Sealer, kept, stored
from neuron.wire import ApiError

Keep = Callable[[dict[str, Any]], None]  # store a response

NOT_FOUND = "There is no response {!r}: it was not stored, has expired, or was deleted."

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
        self._conversations = Conversations(store)

    def decode(
        self, body: bytes, earlier: Sequence[msgspec.Raw] = (), conversation: str | None = None
    ) -> Call:
        call = self._counted(translation.responses.to_chat(body, earlier, conversation))
        needs, ignored = needed_capability(call.body), call.unknown_fields
        return Call(call.model, call.stream, call.body, needs=needs, origin=call, ignored=ignored)

    def _counted(self, call: ResponsesCall) -> ResponsesCall:
        metrics.count_unknown(self.name, call.unknown_fields)
        return call

    def decode_now(self, body: bytes, key: KeyView | None) -> Call | None:
        if kept.asked_of(body) is not None:
            return None
        call = self.decode(body)
        return msgspec.structs.replace(call, origin=(call.origin, owner_of(key)))

    async def prepare(self, body: bytes, key: KeyView | None) -> Call:
        owner, asked = owner_of(key), kept.asked_of(body)
        if asked is None:
            call = self.decode(body)
        else:
            earlier = await self._earlier(owner, asked)
            body = kept.put_in_place(body, asked, await self._referenced(owner, asked), _sealer(owner))
            call = self.decode(body, earlier, asked.conversation_id)
        return msgspec.structs.replace(call, origin=(call.origin, owner))

    async def _earlier(self, owner: str, asked: kept.Asked) -> list[msgspec.Raw]:
        previous, conversation = asked.previous_response_id, asked.conversation_id
        if previous and conversation:
            message = "A request continues either a response or a conversation."
            raise ApiError(400, "invalid_value", message, param="previous_response_id")
        if conversation:
            return await self._conversations.items(owner, conversation)
        if not previous:
            return []
        found = await ask(self._store.get(owner, previous))
        if found is None:
            message, param = NOT_FOUND.format(previous), "previous_response_id"
            raise ApiError(400, "previous_response_not_found", message, param=param)
        return stored.conversation(stored.decode(found))

    async def _referenced(self, owner: str, asked: kept.Asked) -> dict[str, msgspec.Raw]:
        """The items that a request names by their ids, as far as they are there."""
        return kept.all_found(asked, {home: await self._items_of(owner, home) for home in asked.homes})

    async def _items_of(self, owner: str, home: str) -> list[msgspec.Raw]:
        if home.startswith("conv_"):
            return await self._conversations.items(owner, home)
        data = await ask(self._store.get(owner, home))
        return [] if data is None else stored.conversation(stored.decode(data))

    def error_body(self, error: ApiError) -> bytes:
        return super().error_body(in_client_words(_WORDS, error))

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        asked, owner = call.origin
        keep = partial(self._keep, asked, owner)
        return _ResponsesRewriter(asked, request_id, os.urandom(16).hex(), keep, _sealer(owner))

    def _keep(self, call: ResponsesCall, owner: str, response: dict[str, Any]) -> None:
        if call.store:
            self._store.keep(owner, response["id"], stored.encode(call, response))
        if call.conversation:
            items = [*stored.given(call, response), *response["output"]]
            self._conversations.add(owner, call.conversation, items)


def _sealer(owner: str) -> Sealer:
    return Sealer([settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS], owner)


class _ResponsesRewriter(EventStream):
    is_verbatim = False

    def __init__(
        self,
        call: ResponsesCall,
        request_id: str,
        ident: str,
        keep: Keep,
        sealer: Sealer,
    ) -> None:
        self._call = call
        self._ident = ident
        self._keep = keep
        self._sealer = sealer
        self._created_at = int(time.time())
        self._started = False
        self._request_id = request_id

    @cached_property
    def _reader(self) -> translation.ChatReader:
        return translation.ChatReader(request_id=self._request_id)

    @cached_property
    def _writer(self) -> translation.responses.ResponsesWriter:
        return translation.responses.ResponsesWriter(
            self._call, created_at=self._created_at, ident=self._ident, sealer=self._sealer
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
            body, self._call, created_at=self._created_at, ident=self._ident, sealer=self._sealer
        )
        self._keep(response)
        return msgspec.json.encode(response)


class BackgroundDialect(ResponsesDialect):
    """A request that its client does not wait for: what is stored as begun is replaced by the answer."""

    def __init__(self, store: ResponseStore, ident: str) -> None:
        super().__init__(store)
        self._ident = ident
        self._begun = b""

    def begin(self, call: ResponsesCall) -> tuple[bytes, bytes]:
        """The response as it is before its answer: for the client, and for the store."""
        now = int(time.time())
        begun = translation.responses.ResponsesWriter(call, created_at=now, ident=self._ident).response
        begun["id"] = f"resp_{self._ident}"
        self._begun = stored.encode(call, begun)
        return msgspec.json.encode(begun), self._begun

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        asked, owner = call.origin
        keep = partial(self._keep, asked, owner)
        return _ResponsesRewriter(asked, request_id, self._ident, keep, _sealer(owner))

    def _keep(self, call: ResponsesCall, owner: str, response: dict[str, Any]) -> None:
        self._store.keep(owner, response["id"], stored.encode(call, response), instead_of=self._begun)
        super()._keep(msgspec.structs.replace(call, store=False), owner, response)


class InputTokensDialect(ResponsesDialect):
    """The count of a request's input tokens: the node counts the prompt as a real call would."""

    name = "openai-input-tokens"
    path = "/v1/responses/input_tokens"

    def decode(
        self, body: bytes, earlier: Sequence[msgspec.Raw] = (), conversation: str | None = None
    ) -> Call:
        call = super().decode(body, earlier, conversation)
        return msgspec.structs.replace(
            call, stream=False, node_path=TOKENIZE.path, prompt_tokens=False, answer_tokens=False
        )

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        return CountRewriter(translation.responses.count_body)


class CompactDialect(ResponsesDialect):
    """A conversation made shorter: the model summarises it, and the client keeps the summary, sealed."""

    name = "openai-compact"
    path = "/v1/responses/compact"

    def decode(
        self, body: bytes, earlier: Sequence[msgspec.Raw] = (), conversation: str | None = None
    ) -> Call:
        call = self._counted(translation.responses.to_compact(body, earlier))
        needs, ignored = needed_capability(call.body), call.unknown_fields
        return Call(call.model, False, call.body, needs=needs, origin=call, ignored=ignored)

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        return _CompactRewriter(*call.origin)


class _CompactRewriter(Verbatim):
    def __init__(self, call: ResponsesCall, owner: str) -> None:
        self._call = call
        self._seal = _sealer(owner).seal

    def whole(self, body: bytes) -> bytes:
        ident, now = os.urandom(16).hex(), int(time.time())
        response = translation.responses.from_chat(body, self._call, created_at=now, ident=ident)
        said = [*self._call.earlier, *stored.given(self._call, response)]
        return msgspec.json.encode(translation.responses.compaction(response, said, self._seal))

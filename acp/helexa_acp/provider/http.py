"""An endpoint over HTTP: tries, lessons and pauses around `provider.exchange`, for every wire alike.

Before the first visible event a request may be sent again: at once with a lesson learned from a refusal,
after a pause when the server is busy or away. After it, nothing is repeated. A lesson is remembered once it
has worked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.endpoint import Endpoint, join_url
from helexa_acp.provider.attempt import Attempt, default_client
from helexa_acp.provider.base import Provider
from helexa_acp.provider.errors import (
    OverloadedError,
    ProviderError,
    RejectedError,
    UnreachableError,
    from_status,
)
from helexa_acp.provider.lenient_json import as_object, encode_body
from helexa_acp.provider.model_list import parse_models
from helexa_acp.provider.quirks import QuirkBook, Quirks, learn
from helexa_acp.provider.types import CompletionEvent, CompletionRequest, ModelDetails, ProgressUpdate
from helexa_acp.provider.wires.adapter import Adapter
from helexa_acp.provider.wires.registry import ADAPTERS

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
MAX_LESSONS = 6
LIST_TIMEOUT_S = 15.0
COUNT_TIMEOUT_S = 15.0
MAX_RETRY_AFTER_S = 60.0

# What a server says that has no way to count; one that has it may still be busy, or want another key. A 200
# without a count is another server's idea of the same path.
_NO_COUNTS = {200, 400, 404, 405, 422, 501}


def http_provider(endpoint: Endpoint, book: QuirkBook) -> HttpProvider:
    return HttpProvider(endpoint, ADAPTERS[endpoint.wire_api](), book)


class HttpProvider(Provider):
    def __init__(
        self,
        endpoint: Endpoint,
        adapter: Adapter,
        book: QuirkBook,
        *,
        client: Callable[[], httpx.AsyncClient] = default_client,
        backoff_s: float = 0.5,
    ) -> None:
        self.name = endpoint.name
        self.endpoint = endpoint
        self.adapter = adapter
        self._book = book
        self._new_client = client
        self._client_now: httpx.AsyncClient | None = None
        self._backoff_s = backoff_s

    async def complete(
        self, request: CompletionRequest, cancel: CancelToken
    ) -> AsyncGenerator[CompletionEvent, None]:
        attempts, lessons = 1, 0
        known = quirks = self.quirks(request.model)
        shown = False
        while not cancel.cancelled:
            exchange = Attempt(self.endpoint, self.adapter, self._client, request, quirks)
            try:
                async with aclosing(exchange.events(cancel)) as events:
                    async for event in events:
                        known = self._learned(request.model, known, quirks)
                        shown = shown or not isinstance(event, ProgressUpdate)
                        yield event
            except Cancelled:
                return
            except RejectedError as refusal:
                lessons += 1
                taught = learn(quirks, refusal.status, refusal.body)
                if taught is None or lessons > MAX_LESSONS:
                    raise
                quirks = taught
            except (OverloadedError, UnreachableError) as error:
                if shown or attempts >= MAX_ATTEMPTS:
                    raise
                await self._pause(error, attempts, cancel)
                attempts += 1
            else:
                return

    async def list_models(self) -> list[ModelDetails]:
        url = join_url(self.endpoint.base_url, "models")
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                response = await self._client.get(url, headers=self.adapter.headers(self.endpoint.api_key))
        except Exception as error:
            raise UnreachableError(f"{self.name}: no answer: {error!r}", endpoint=self.name) from error
        if response.status_code != 200:
            raise from_status(self.name, "", response.status_code, response.text)
        try:
            return parse_models(response.json())
        except ValueError:
            raise RejectedError(f"{self.name}: the list of models is not JSON", endpoint=self.name) from None

    async def count_tokens(self, request: CompletionRequest) -> int | None:
        quirks = self.quirks(request.model)
        call = self.adapter.encode_count(request, quirks, f"{self.name}:{request.model}")
        if call is None or not quirks.counts:
            return None
        absent = True
        # Servers that have /tokenize have it beside /v1, some below it.
        url = join_url(self.endpoint.base_url, call.path)
        for candidate in dict.fromkeys((url.replace("/v1/tokenize", "/tokenize"), url)):
            status, count = await self._count(candidate, call.body)
            if count is not None:
                return count
            absent = absent and status in _NO_COUNTS
        if absent:
            self.remember(request.model, replace(quirks, counts=False))
        return None

    async def _count(self, url: str, body: dict[str, Any]) -> tuple[int, int | None]:
        """The status, and the count if there is one; a server that does not answer is as good as busy."""
        headers = {"content-type": "application/json", **self.adapter.headers(self.endpoint.api_key)}
        try:
            async with asyncio.timeout(COUNT_TIMEOUT_S):
                response = await self._client.post(url, content=encode_body(body), headers=headers)
        except Exception as error:  # noqa: BLE001 - counting is a help, never a reason to fail
            log.info("endpoint %s: cannot count tokens: %r", self.name, error)
            return 503, None
        value = as_object(response.text) or {}
        count = value.get("count", value.get("input_tokens"))
        told = response.status_code == 200 and isinstance(count, int) and not isinstance(count, bool)
        return response.status_code, count if told else None

    async def aclose(self) -> None:
        if self._client_now is not None:
            await self._client_now.aclose()

    def _learned(self, model: str, known: Quirks, quirks: Quirks) -> Quirks:
        if quirks != known:
            self.remember(model, quirks)
        return quirks

    def quirks(self, model: str) -> Quirks:
        told = Quirks(images=self.endpoint.images is not False, text_tools=self.endpoint.text_tools is True)
        return self._book.get(f"{self.name}:{model}", told)

    def remember(self, model: str, quirks: Quirks) -> None:
        self._book.remember(f"{self.name}:{model}", quirks)

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._client_now is None:
            self._client_now = self._new_client()
        return self._client_now

    async def _pause(self, error: ProviderError, attempt: int, cancel: CancelToken) -> None:
        wanted_s = error.retry_after_s if isinstance(error, OverloadedError) else None
        pause_s = min(wanted_s if wanted_s is not None else self._backoff_s * 2**attempt, MAX_RETRY_AFTER_S)
        log.warning("%s; trying again in %.1f s", error, pause_s)
        try:
            await cancel.race(asyncio.sleep(pause_s))
        except Cancelled:
            return

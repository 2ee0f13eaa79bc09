"""An endpoint over HTTP, whatever its wire.

Before the first visible event a request may be sent again: immediately with a quirk learned from a refusal,
after a pause if the server is busy or unreachable. After that event nothing is repeated. A quirk is
remembered once it has helped.
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
MAX_PAUSE_S = 60.0  # a server that wants to be left alone for longer is out of service, or its budget used up
TOLD_PAUSE_S = 2.0  # a shorter pause is not worth a word to the user

# Statuses of servers that cannot count tokens; any other may be a server that can, but not now. A 200
# without a count comes from a server that uses the path for something else.
_CANNOT_COUNT = {200, 400, 404, 405, 422, 501}


def http_provider(endpoint: Endpoint, book: QuirkBook) -> HttpProvider:
    return HttpProvider(endpoint, ADAPTERS[endpoint.wire_api](), book)


class HttpProvider(Provider):
    """A provider for any wire that is spoken over HTTP; `backoff_s` doubles with each retry."""

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
        attempts = 1
        lessons = 0
        known = quirks = self.quirks(request.model)
        shown = False
        while not cancel.cancelled:
            attempt = Attempt(self.endpoint, self.adapter, self._client, request, quirks)
            try:
                async with aclosing(attempt.events(cancel)) as events:
                    async for event in events:
                        known = self._remember_new(request.model, known, quirks)
                        shown = shown or not isinstance(event, ProgressUpdate)
                        yield event
            except Cancelled:
                return
            except RejectedError as refusal:
                lessons += 1
                learned = learn(quirks, refusal.status, refusal.body)
                if learned is None or lessons > MAX_LESSONS:
                    raise
                quirks = learned
            except (OverloadedError, UnreachableError) as error:
                pause_s = self._pause_s(error, attempts)
                if shown or attempts >= MAX_ATTEMPTS or pause_s > MAX_PAUSE_S:
                    raise
                log.warning("%s; trying again in %.1f s", error, pause_s)
                if pause_s >= TOLD_PAUSE_S:
                    yield ProgressUpdate(f"Trying again in {pause_s:.0f} s: {error}")
                await _pause(pause_s, cancel)
                attempts += 1
            else:
                return
            finally:
                self.rate_limits = attempt.rate_limits or self.rate_limits

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
        cannot_count = True
        # Most servers have /tokenize beside /v1, some below it.
        url = join_url(self.endpoint.base_url, call.path)
        for candidate in dict.fromkeys((url.replace("/v1/tokenize", "/tokenize"), url)):
            status, count = await self._count(candidate, call.body)
            if count is not None:
                return count
            cannot_count = cannot_count and status in _CANNOT_COUNT
        if cannot_count:
            self.remember(request.model, replace(quirks, counts=False))
        return None

    async def _count(self, url: str, body: dict[str, Any]) -> tuple[int, int | None]:
        """Return the status and the count, if there is one. A server that does not answer counts as busy."""
        headers = {"content-type": "application/json", **self.adapter.headers(self.endpoint.api_key)}
        try:
            async with asyncio.timeout(COUNT_TIMEOUT_S):
                response = await self._client.post(url, content=encode_body(body), headers=headers)
        except Exception as error:  # noqa: BLE001 - a turn never fails because of a count
            log.info("endpoint %s: cannot count tokens: %r", self.name, error)
            return 503, None
        value = as_object(response.text) or {}
        count = value.get("count", value.get("input_tokens"))
        if response.status_code != 200 or isinstance(count, bool) or not isinstance(count, int):
            count = None
        return response.status_code, count

    async def aclose(self) -> None:
        if self._client_now is not None:
            await self._client_now.aclose()

    def takes_images(self, model: str) -> bool:
        return self.quirks(model).images

    def quirks(self, model: str) -> Quirks:
        """Return what was learned about the model, on top of what the configuration says."""
        endpoint = self.endpoint
        configured = Quirks(images=endpoint.images is not False, text_tools=endpoint.text_tools is True)
        return self._book.get(f"{self.name}:{model}", configured)

    def remember(self, model: str, quirks: Quirks) -> None:
        self._book.remember(f"{self.name}:{model}", quirks)

    def _remember_new(self, model: str, known: Quirks, quirks: Quirks) -> Quirks:
        if quirks != known:
            self.remember(model, quirks)
        return quirks

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._client_now is None:
            self._client_now = self._new_client()
        return self._client_now

    def _pause_s(self, error: ProviderError, attempt: int) -> float:
        if isinstance(error, OverloadedError) and error.retry_after_s is not None:
            return error.retry_after_s
        return float(self._backoff_s * 2**attempt)


async def _pause(pause_s: float, cancel: CancelToken) -> None:
    try:
        await cancel.race(asyncio.sleep(pause_s))
    except Cancelled:
        return

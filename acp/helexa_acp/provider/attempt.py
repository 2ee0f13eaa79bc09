"""One attempt at a completion over HTTP: send the request, read the answer, decode it.

There is no timeout for the whole, only one for the first byte (a cold model may have to load) and one
between chunks. An answer may be an event stream, JSON from a server that does not stream, or a page from a
proxy in between: content type and first byte tell which.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable
from typing import TYPE_CHECKING, TypeVar

from helexa_acp import VERSION
from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.endpoint import Endpoint, join_url
from helexa_acp.provider.errors import (
    UnreachableError,
    WireError,
    from_status,
    from_wire,
)
from helexa_acp.provider.lenient_json import as_object, encode_body
from helexa_acp.provider.quirks import Quirks
from helexa_acp.provider.rate_limits import RateLimit, parse_rate_limits
from helexa_acp.provider.sse import SseComment, SseEvent, SseParser, SseTooLongError
from helexa_acp.provider.types import CompletionEvent, CompletionRequest, ProgressUpdate
from helexa_acp.provider.wires.adapter import Adapter, StreamDecoder

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
MAX_ERROR_BYTES = 64 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024

# Comments that tell about progress; the others only keep the connection alive.
_PROGRESS = re.compile(r"\b(?:load|unload|queue|evict|warm|wait|download|plac)|\beta\b|%", re.IGNORECASE)


def default_client() -> httpx.AsyncClient:
    """Return a client without timeouts other than the one for connecting."""
    import httpx  # noqa: PLC0415 - costs 150 ms, which `initialize` must not wait for

    timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
    return httpx.AsyncClient(timeout=timeout, headers={"user-agent": f"helexa-acp/{VERSION}"})


class Attempt:
    """Encodes its request at once and sends it when `events` is iterated."""

    def __init__(
        self,
        endpoint: Endpoint,
        adapter: Adapter,
        client: httpx.AsyncClient,
        request: CompletionRequest,
        quirks: Quirks,
    ) -> None:
        self._endpoint = endpoint
        self._client = client
        self._model = request.model
        self._call = adapter.encode(request, quirks, f"{endpoint.name}:{request.model}")
        self._headers = {
            "accept": "text/event-stream, application/json",
            "content-type": "application/json",
            **adapter.headers(endpoint.api_key),
        }
        self._decoder: StreamDecoder = adapter.decoder(text_tools=quirks.text_tools)
        self.rate_limits: tuple[RateLimit, ...] = ()  # known once the answer begins

    async def events(self, cancel: CancelToken) -> AsyncGenerator[CompletionEvent, None]:
        """Yield the events of the answer. Raises Cancelled, ProviderError."""
        url = join_url(self._endpoint.base_url, self._call.path)
        body = encode_body(self._call.body)
        message = self._client.build_request("POST", url, content=body, headers=self._headers)
        sending = asyncio.ensure_future(self._client.send(message, stream=True))
        try:
            response = await self._wait(sending, self._endpoint.first_byte_timeout_s, cancel)
        except Cancelled:
            if sending.done() and not sending.cancelled() and sending.exception() is None:
                await sending.result().aclose()  # the answer arrived at the same moment
            raise
        self.rate_limits = parse_rate_limits(response.headers)
        try:
            if response.status_code != 200:
                await self._refuse(response, cancel)
            async for event in self._read(response, cancel):
                if cancel.cancelled:
                    raise Cancelled
                yield event
        except WireError as error:
            raise from_wire(self._endpoint.name, self._model, error) from error
        except SseTooLongError:
            raise self._broken("one event of the stream is too long") from None
        finally:
            await response.aclose()

    async def _read(
        self, response: httpx.Response, cancel: CancelToken
    ) -> AsyncGenerator[CompletionEvent, None]:
        parser: SseParser | None = None
        whole: list[bytes] = []
        timeout_s = self._endpoint.first_byte_timeout_s
        chunks = aiter(response.aiter_bytes())
        while (chunk := await self._wait(anext(chunks, None), timeout_s, cancel)) is not None:
            if parser is None and not whole:
                parser = SseParser() if _is_stream(response, chunk) else None
            if parser is None:
                whole.append(chunk)
                if sum(map(len, whole)) > MAX_BODY_BYTES:
                    raise self._broken("the answer is too long")
                continue
            for item in parser.feed(chunk):
                timeout_s = self._endpoint.idle_timeout_s if isinstance(item, SseEvent) else timeout_s
                for event in self._decoded(item):
                    yield event
        for event in self._end(parser, b"".join(whole)):
            yield event

    def _decoded(self, item: SseEvent | SseComment) -> list[CompletionEvent]:
        if isinstance(item, SseEvent):
            return self._decoder.feed(item)
        return [ProgressUpdate(item.text[:200])] if _PROGRESS.search(item.text) else []

    def _end(self, parser: SseParser | None, whole: bytes) -> list[CompletionEvent]:
        events: list[CompletionEvent] = []
        if parser is not None:
            events = [event for item in parser.close() for event in self._decoded(item)]
        elif whole.strip():
            text = whole.decode("utf-8", "replace")
            value = as_object(text)
            if value is None:
                raise self._broken(f"the answer is not a completion: {text[:200]!r}")
            events = self._decoder.body(value)
        return [*events, *self._decoder.close()]

    async def _refuse(self, response: httpx.Response, cancel: CancelToken) -> None:
        body = await self._wait(response.aread(), self._endpoint.idle_timeout_s, cancel)
        text = body[:MAX_ERROR_BYTES].decode("utf-8", "replace")
        retry_after = response.headers.get("retry-after")
        raise from_status(self._endpoint.name, self._model, response.status_code, text, retry_after)

    async def _wait(self, work: Awaitable[T], timeout_s: float, cancel: CancelToken) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await cancel.race(work)
        except Cancelled:
            raise
        except TimeoutError:
            raise self._broken(f"no answer for {timeout_s:.0f} s") from None
        except Exception as error:  # httpx and the socket below it raise many; all mean the same here
            raise self._broken(str(error) or repr(error)) from error

    def _broken(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"{self._endpoint.name}: {why}", endpoint=self._endpoint.name, model=self._model
        )


def _is_stream(response: httpx.Response, first: bytes) -> bool:
    kind = response.headers.get("content-type", "")
    if "event-stream" in kind:
        return True
    return first.lstrip()[:1] not in {b"{", b"<"} and "json" not in kind and "html" not in kind

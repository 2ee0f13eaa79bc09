"""A server's own HTTP API, asked over the loopback interface: requests that are relayed, and its state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx

from neuron.wire import ApiError

CONNECT_S = 5.0
PROBE_S = 5.0
RETRY_AFTER_S = 5
JSON = "application/json"


class UpstreamAnswer:
    """See `neuron.harness.RelayedAnswer`."""

    def __init__(self, response: httpx.Response, model: str) -> None:
        self._response = response
        self._model = model
        self.status = response.status_code
        self.content_type = response.headers.get("content-type", "")

    async def chunks(self) -> AsyncGenerator[bytes]:
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            raise lost(self._model, error) from error

    async def close(self) -> None:
        await self._response.aclose()


class Upstream:
    """The API of one server process."""

    def __init__(self, model: str, port: int, secret: str, silence_s: float) -> None:
        self._model = model
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers=headers,
            timeout=httpx.Timeout(silence_s, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=False,
        )

    async def ask(self, path: str, body: bytes, request_id: str) -> UpstreamAnswer:
        """The answer, once its head is here. Raises `ApiError`."""
        headers = {"content-type": JSON, "x-request-id": request_id, "accept-encoding": "identity"}
        request = self._http.build_request("POST", path, content=body, headers=headers)
        try:
            return UpstreamAnswer(await self._http.send(request, stream=True), self._model)
        except httpx.HTTPError as error:
            raise lost(self._model, error) from error

    async def is_well(self, path: str, within_s: float = PROBE_S) -> bool:
        """Whether a GET of the path is answered with success in time."""
        try:
            return (await self._http.get(path, timeout=within_s)).is_success
        except httpx.HTTPError:
            return False

    async def command(self, path: str, body: bytes, within_s: float) -> None:
        """Send a POST for its effect. Raises `ApiError`."""
        try:
            response = await self._http.post(path, content=body, timeout=within_s)
        except httpx.HTTPError as error:
            raise lost(self._model, error) from error
        if not response.is_success:
            message = f"The server of {self._model!r} answered {path} with {response.status_code}."
            raise ApiError(502, "engine_error", message)

    async def context(self, way: Sequence[str]) -> int | None:
        """The length in tokens that the server lists for its model, at the end of `way`."""
        try:
            found: Any = (await self._http.get("/v1/models", timeout=PROBE_S)).json()["data"][0]
            for key in way:
                found = found[key]
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return None
        return found if type(found) is int and found > 0 else None

    async def close(self) -> None:
        await self._http.aclose()


def lost(model: str, error: httpx.HTTPError) -> ApiError:
    """The error of a request that the server did not answer, or not to its end."""
    if isinstance(error, httpx.ReadTimeout):
        return ApiError(504, "engine_silent", f"The server of {model!r} was silent for too long.")
    message = f"The server of {model!r} went away ({error or type(error).__name__})."
    return ApiError(503, "worker_lost", message, retry_after_s=RETRY_AFTER_S)


async def settle(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, whatever it is."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

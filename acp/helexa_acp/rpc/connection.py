"""A JSON-RPC connection over any transport: requests both ways, notifications, cancellation.

Each incoming message is handled in a task of its own. Tasks start in the order of arrival, so handlers run up
to their first wait in that order. Each request gets exactly one answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from helexa_acp.rpc.framing import (
    INTERNAL_ERROR,
    MAX_OUT_BYTES,
    METHOD_NOT_FOUND,
    REQUEST_CANCELLED,
    Id,
    Malformed,
    RpcError,
    RpcMessage,
    RpcNotification,
    RpcRequest,
    RpcResponse,
    encode,
)

log = logging.getLogger(__name__)

MAX_CONCURRENT = 1000

Handler = Callable[[str, Any], Awaitable[Any]]


class Writer(Protocol):
    """The outgoing side of a transport."""

    def write(self, line: bytes) -> None:
        """Queue a line; never blocks."""

    async def drain(self) -> None:
        """Wait while too much is queued."""


class ConnectionClosedError(RpcError):
    """The peer has disconnected."""

    def __init__(self) -> None:
        super().__init__(INTERNAL_ERROR, "the peer has disconnected")


@dataclass(slots=True)
class ActiveRequest:
    """A request that is being handled. Its handler may change how it is cancelled and add to `after`."""

    cancel: Callable[[], Any] | None = None
    after: list[Callable[[], None]] = field(default_factory=list)  # called once the answer is queued


_CURRENT_REQUEST: ContextVar[ActiveRequest] = ContextVar("current_request")


def current_request() -> ActiveRequest:
    """Return the request that the calling handler serves."""
    return _CURRENT_REQUEST.get()


class RpcConnection:
    """`close` ends every task, and fails every request that still waits for the peer."""

    def __init__(self, writer: Writer, on_request: Handler, on_notification: Handler) -> None:
        self._writer = writer
        self._on_request = on_request
        self._on_notification = on_notification
        self._next_id = 0
        self._waiting: dict[Id, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._active: dict[Id, ActiveRequest] = {}
        self._peer_gone = False
        self._closed = False

    def receive(self, message: RpcMessage) -> None:
        match message:
            case RpcRequest():
                self._accept(message)
            case RpcNotification(method="$/cancel_request"):
                self._spawn(self._cancel(message.params))
            case RpcNotification():
                self._spawn(self._notified(message))
            case RpcResponse():
                self._answered(message)
            case Malformed():
                self._send({"id": message.id, "error": message.error.to_json()})

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self._send({"method": method, "params": params})

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """Return the peer's result. Raises RpcError, ConnectionClosedError.

        A caller that is cancelled cancels the request.
        """
        if self._peer_gone:
            raise ConnectionClosedError
        self._next_id += 1
        id_ = self._next_id
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[id_] = future
        self._send({"id": id_, "method": method, "params": params})
        try:
            return await future
        except asyncio.CancelledError:
            self.notify("$/cancel_request", {"requestId": id_})
            raise
        finally:
            self._waiting.pop(id_, None)

    async def drain(self) -> None:
        await self._writer.drain()

    def peer_gone(self) -> None:
        """Fail the requests that wait for the peer, whose input has ended. It may still read answers."""
        self._peer_gone = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionClosedError())

    async def close(self) -> None:
        self.peer_gone()
        self._closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _accept(self, request: RpcRequest) -> None:
        if len(self._tasks) >= MAX_CONCURRENT:
            error = RpcError(INTERNAL_ERROR, f"more than {MAX_CONCURRENT} requests at once")
            self._send({"id": request.id, "error": error.to_json()})
            return
        state = ActiveRequest()
        task = self._spawn(self._serve(request, state))
        state.cancel = task.cancel
        self._active[request.id] = state

    async def _serve(self, request: RpcRequest, state: ActiveRequest) -> None:
        _CURRENT_REQUEST.set(state)
        answer: dict[str, Any] = {"id": request.id}
        try:
            answer["result"] = await self._on_request(request.method, request.params)
        except RpcError as error:
            answer["error"] = error.to_json()
        except asyncio.CancelledError:
            if self._closed:
                raise
            answer["error"] = RpcError(REQUEST_CANCELLED, "the request was cancelled").to_json()
        except Exception as error:
            log.exception("request %s failed", request.method)
            what = f"{request.method} failed: {type(error).__name__}: {error}"
            answer["error"] = RpcError(INTERNAL_ERROR, what).to_json()
        finally:
            if self._active.get(request.id) is state:
                del self._active[request.id]
        self._send(answer)
        for action in state.after:
            action()

    async def _cancel(self, params: Any) -> None:
        id_ = params.get("requestId") if isinstance(params, dict) else None
        state = self._active.get(id_) if isinstance(id_, str | int | None) else None
        if state is not None and state.cancel is not None:
            state.cancel()

    async def _notified(self, notification: RpcNotification) -> None:
        try:
            await self._on_notification(notification.method, notification.params)
        except Exception as error:
            if isinstance(error, RpcError) and error.code == METHOD_NOT_FOUND:
                log.debug("ignored notification %s", notification.method)
                return
            log.exception("notification %s failed", notification.method)

    def _answered(self, response: RpcResponse) -> None:
        future = self._waiting.get(response.id)
        if future is None or future.done():
            log.debug("ignored an answer to no request: id %r", response.id)
        elif response.error is not None:
            future.set_exception(response.error)
        else:
            future.set_result(response.result)

    def _send(self, message: dict[str, Any]) -> None:
        if self._closed:
            return
        line = encode(message)
        if len(line) > MAX_OUT_BYTES:
            log.error(
                "not sent, %d bytes is too long for a line: %s", len(line), message.get("method", "an answer")
            )
            if "method" in message:
                return
            error = RpcError(INTERNAL_ERROR, f"the answer has {len(line)} bytes, more than a client reads")
            line = encode({"id": message["id"], "error": error.to_json()})
        self._writer.write(line)

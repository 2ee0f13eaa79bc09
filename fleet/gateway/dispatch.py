"""From a routed request to the head of a node's answer: choose, wait for a load, send, try the next replica.

Everything here happens before a byte has reached the client. A request that a node cannot have begun (no
connection, a kept one that was closed, a refusal) is tried on the next replica. One that it may have begun
(the node hung up, or answered no HTTP) is repeated too, once: a generation changes nothing anywhere, and the
client saw nothing of the first one, so all that a repetition costs is computing. `gateway.repeat_unanswered`
turns that off; then it is a 503. One that took too long is never repeated.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from fleet import router
from fleet.affinity import BYTES_PER_TOKEN, digests, published
from fleet.gateway import metrics
from fleet.gateway.connection import UpstreamError
from fleet.gateway.loading import Loader
from fleet.gateway.nodes import Nodes
from fleet.gateway.upstream import Response
from fleet.gateway.view import FleetView
from neuron.wire import ApiError, prefix_marks

log = logging.getLogger("cortex.dispatch")

MAX_ATTEMPTS = 4
MIN_CHOICE = 2  # replicas; with fewer there is nothing to weigh
JSON, EVENTS = "application/json", "text/event-stream"  # what a node answers with
MAX_ERROR_BYTES = 1 << 20
EVENT_DELAY_S = 1.0  # how long a node's word that a model is gone may be on its way to us

# The node did not answer because the model is not there now: another replica may, or a load brings it back.
_GONE = frozenset({"model_not_found", "model_loading", "model_unloaded", "worker_lost"})


class _Error(msgspec.Struct):
    message: str = ""
    code: str | None = None
    param: str | None = None


class _Envelope(msgspec.Struct):
    error: _Error


_envelope = msgspec.json.Decoder(_Envelope)


@dataclass(slots=True)
class Dispatch:
    """One request's way to a node, with what its record will say of it."""

    view: FleetView
    nodes: Nodes
    loader: Loader
    headers: dict[str, str]
    repeat: bool = True  # what a node may have begun
    node: str = ""
    retries: int = 0
    cold: bool = False
    queue_s: float = 0.0
    load_s: float = 0.0  # of `queue_s`
    started: float = field(default_factory=time.monotonic)
    overhead_s: float | None = None  # from `started` to the first request to a node, without `queue_s`
    failures: list[tuple[str, str]] = field(default_factory=list)  # node and error code, in order
    _prefix: Sequence[int] = ()
    _marks: Sequence[tuple[int, int]] = ()
    _failed: set[str] = field(default_factory=set)
    _last_error: ApiError | None = None
    _repeated: bool = False

    async def send(self, model: str, path: str, body: bytes, *, stream: bool = False) -> Response:
        """The 200 answer's head from some replica of the (resolved) model; `ApiError` when none gives one."""
        self._prefix, self._marks = digests(model, body), prefix_marks(body)
        for attempt in range(MAX_ATTEMPTS):
            self.retries = attempt
            route = await self._route(model, len(body) // BYTES_PER_TOKEN)
            response = await self._attempt(route, path, body, EVENTS if stream else JSON)
            if response is not None:
                self.nodes.affinity.note(self._prefix, self.node)
                return response
        assert self._last_error is not None
        raise self._last_error

    async def _route(self, model: str, prompt_tokens: int) -> router.Route:
        start = time.monotonic()
        while True:
            closed, busy = self.nodes.troubled(model)
            facts = router.Facts(
                model,
                self.nodes.in_flight,
                exclude=self._failed | closed,
                avoid=busy,
                prompt_tokens=prompt_tokens,
                saved_tokens=self._saved_tokens(model),
            )
            route = router.choose(self.view.snapshot, facts)
            if route is not None:
                self.queue_s += time.monotonic() - start
                return route
            if self._last_error is not None and self._last_error.code not in _GONE:
                raise self._last_error
            if closed and self.view.snapshot.replicas(model):
                raise self._closed(closed)
            await self._wait_for_load(model)

    def _saved_tokens(self, model: str) -> dict[str, int]:
        """By a node's own word, or by our record of a node that publishes none."""
        replicas = self.view.snapshot.replicas(model)
        if len(replicas) < MIN_CHOICE:
            return {}
        return self.nodes.affinity.saved(self._prefix) | published(self._marks, replicas)

    def _closed(self, nodes: Collection[str]) -> ApiError:
        """Every replica's breaker is open."""
        names, now = ", ".join(sorted(nodes)), time.monotonic()
        wait_s = min(self.nodes.breaker(name).retry_after_s(now) for name in nodes)
        message = f"The nodes that have the model failed lately and are left alone for a moment: {names}."
        return ApiError(503, "node_unavailable", message, retry_after_s=math.ceil(wait_s) or 1)

    async def _wait_for_load(self, model: str) -> None:
        if self._failed:  # a node said that the model is gone; let its event arrive, then forget the verdict
            await self.view.changed(EVENT_DELAY_S)
            self._failed.clear()
        if not self.view.snapshot.replicas(model):
            self.cold = True
            start = time.monotonic()
            try:
                await self.loader.wait(model)
            finally:
                self.load_s += time.monotonic() - start

    async def _attempt(self, route: router.Route, path: str, body: bytes, kind: str) -> Response | None:
        """The 200 answer, or None when another replica may be tried."""
        self.node = route.node.name
        if self.overhead_s is None:
            self.overhead_s = time.monotonic() - self.started - self.queue_s
        breaker = self.nodes.breaker(self.node)
        breaker.sent(time.monotonic())
        try:
            pool = self.nodes.pool(self.node)
            response = await pool.request("POST", path, headers=self.headers, body=body)
            self.queue_s += response.queued_s
            if response.status == 200:
                _check_type(response, kind)
                breaker.succeeded()
                return response
            refusal = await _read_error(response)
        except asyncio.CancelledError:
            breaker.abandoned()
            raise
        except (UpstreamError, KeyError) as failure:
            self._unreachable(failure)
        else:
            self._judge(route.model.id, refusal)
            self._refused(refusal)
        return None

    def _judge(self, model: str, error: ApiError) -> None:
        """What a refusal says of the node itself."""
        if error.status in {401, 403}:
            self.nodes.mark_unauthorized(self.node)
        elif error.status in {429, 503} and error.retry_after_s and error.code not in _GONE:
            self.nodes.mark_busy(self.node, model, error.retry_after_s)
        elif error.status >= 500 and error.code not in _GONE:
            self.nodes.mark_failed(self.node)
        else:
            self.nodes.breaker(self.node).succeeded()

    def _unreachable(self, failure: UpstreamError | KeyError) -> None:
        kind = failure.kind if isinstance(failure, UpstreamError) else "connect"
        log.warning("node failed a request", extra={"node": self.node, "kind": kind, "error": str(failure)})
        metrics.UPSTREAM_FAILURES.labels(self.node, kind).inc()
        if kind == "busy":
            self.nodes.breaker(self.node).abandoned()
            self._fail(ApiError(503, "node_busy", f"The node '{self.node}': {failure}.", retry_after_s=2))
            return
        self.nodes.mark_failed(self.node)
        if kind == "connect":
            self.view.set_unreachable(self.node, str(failure))
        code = "node_lost" if kind == "closed" else "node_unavailable"
        error = ApiError(503, code, f"The node '{self.node}' failed: {failure}.", retry_after_s=3)
        if kind == "timeout" or (kind != "connect" and not self._may_repeat()):
            raise error
        self._fail(error)

    def _may_repeat(self) -> bool:
        """What a node may have begun, once: it may be this request that kills them."""
        first, self._repeated = not self._repeated, True
        return first and self.repeat

    def _refused(self, error: ApiError) -> None:
        if error.status in {401, 403}:
            message = f"The node '{self.node}' does not accept the gateway's token; set it under [[neurons]]."
            self._fail(ApiError(503, "node_unauthorized", message))
        elif error.code == "worker_lost" and not self._may_repeat():
            raise error
        elif error.status in {429, 503} or error.code in _GONE:
            self._fail(error)
        else:
            raise error  # the request's own fault: every replica would say the same

    def _fail(self, error: ApiError) -> None:
        self._failed.add(self.node)
        self.failures.append((self.node, error.code))
        self._last_error = error


def _check_type(response: Response, kind: str) -> None:
    """Something in between answers 200 with a page of its own."""
    given = response.headers.get("content-type", kind)
    if not given.startswith(kind):
        response.close()
        raise UpstreamError("protocol", f"it answered with {given[:80]!r} instead of {kind}")


async def _read_error(response: Response) -> ApiError:
    """A node's error as ours; one that is not an envelope is a 502 that quotes its status."""
    try:
        body = await response.read(MAX_ERROR_BYTES)
    finally:
        response.close()
    try:
        error = _envelope.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ApiError(502, "node_error", f"The node answered {response.status} without an error envelope.")
    retry_after = response.headers.get("retry-after", "")
    return ApiError(
        response.status,
        error.code or "node_error",
        error.message,
        param=error.param,
        retry_after_s=int(retry_after) if retry_after.isdigit() else None,
    )

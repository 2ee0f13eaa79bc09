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
from collections.abc import Collection, Mapping, Sequence

from fleet import router
from fleet.affinity import BYTES_PER_TOKEN, digests, published
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.response import UpstreamResponse
from fleet.gateway.loading import Loader
from fleet.gateway.nodes.nodes import Nodes
from fleet.gateway.nodes.refusals import read_refusal
from fleet.gateway.nodes.view import FleetView
from fleet.gateway.record import metrics
from neuron.wire import ApiError, prefix_marks

log = logging.getLogger("cortex.dispatch")

MAX_ATTEMPTS = 4
JSON, EVENTS = "application/json", "text/event-stream"  # what a node answers with
EVENT_DELAY_S = 1.0  # how long a node's word that a model is gone may be on its way to us

DENIED = frozenset({401, 402, 403})  # our token or account is
UNKNOWN = frozenset({404, 405, 501})  # another server does not have the path, or no longer the model

# The node did not answer because the model is not there now: another replica may, or a load brings it back.
_GONE = frozenset({"model_not_found", "model_loading", "model_unloaded", "worker_lost"})


_NOTHING: Mapping[str, int] = {}


class Dispatch:
    """One request's way to a node, with what its record will say of it."""

    node = ""
    retries = 0
    cold = False
    queue_s = 0.0
    load_s = 0.0  # of `queue_s`
    overhead_s: float | None = None  # from `started` to the first request to a node, without `queue_s`
    failures: tuple[tuple[str, str], ...] = ()  # node and error code, in order
    waits_s: tuple[tuple[str, float], ...] = ()  # expected on each replica that was compared last
    _prefix: Sequence[int] = ()
    _marks: Sequence[tuple[int, int]] = ()
    _failed: frozenset[str] = frozenset()
    _last_error: ApiError | None = None
    _repeated = False

    def __init__(
        self, view: FleetView, nodes: Nodes, loader: Loader, headers: dict[str, str], *, repeat: bool
    ) -> None:
        """`headers` go to the node; `repeat` is for what a node may have begun."""
        self.view = view
        self.nodes = nodes
        self.loader = loader
        self.headers = headers
        self.repeat = repeat
        self.started = time.monotonic()

    async def send(self, model: str, path: str, body: bytes, *, stream: bool = False) -> UpstreamResponse:
        """The 200 answer's head from some replica of the (resolved) model; `ApiError` when none gives one."""
        for attempt in range(MAX_ATTEMPTS):
            self.retries = attempt
            route = self._choose(model, body) or await self._wait_for_route(model, body)
            response = await self._attempt(route, path, body, EVENTS if stream else JSON)
            if response is not None:
                if self._prefix:
                    self.nodes.affinity.note(self._prefix, self.node)
                return response
        assert self._last_error is not None
        raise self._last_error

    def _choose(self, model: str, body: bytes) -> router.Route | None:
        """The best replica now."""
        replicas, nodes = self.view.snapshot.replicas(model), self.nodes
        if len(replicas) == 1 and not self._failed and nodes.are_well:
            return router.Route(*replicas[0])
        closed, busy = nodes.troubled(model)
        facts = router.Facts(
            model,
            nodes.in_flight,
            exclude=self._failed | closed,
            avoid=busy,
            prompt_tokens=len(body) // BYTES_PER_TOKEN,
            saved_tokens=self._saved_tokens(model, body),
        )
        return router.choose(self.view.snapshot, facts)

    async def _wait_for_route(self, model: str, body: bytes) -> router.Route:
        start = time.monotonic()
        while (route := self._choose(model, body)) is None:
            if self._last_error is not None and self._last_error.code not in _GONE:
                raise self._last_error
            closed, _ = self.nodes.troubled(model)
            if holders := closed & {node.name for node, _ in self.view.snapshot.replicas(model)}:
                raise self._closed(holders)
            await self._wait_for_load(model)
        self.queue_s += time.monotonic() - start
        return route

    def _saved_tokens(self, model: str, body: bytes) -> Mapping[str, int]:
        """By a node's own word, or by our record of a node that publishes none."""
        replicas = self.view.snapshot.replicas(model)
        if len(replicas) < router.MIN_CHOICE:
            return _NOTHING
        if not self._marks:
            self._prefix, self._marks = digests(model, body), prefix_marks(body)
        return self.nodes.affinity.saved(self._prefix) | published(self._marks, replicas)

    def _closed(self, nodes: Collection[str]) -> ApiError:
        """Every replica's breaker is open."""
        if all(self.nodes.breaker(name).unauthorized for name in nodes):
            return _denied(nodes)
        names, now = ", ".join(sorted(nodes)), time.monotonic()
        wait_s = min(self.nodes.breaker(name).retry_after_s(now) for name in nodes)
        message = f"The nodes that have the model failed lately and are left alone for a moment: {names}."
        return ApiError(503, "node_unavailable", message, retry_after_s=math.ceil(wait_s) or 1)

    async def _wait_for_load(self, model: str) -> None:
        if self._failed:  # a node said that the model is gone; let its event arrive, then forget the verdict
            await self.view.changed(EVENT_DELAY_S)
            self._failed = frozenset()
        if not self.view.snapshot.replicas(model):
            self.cold = True
            start = time.monotonic()
            try:
                await self.loader.wait(model)
            finally:
                self.load_s += time.monotonic() - start

    async def _attempt(
        self, route: router.Route, path: str, body: bytes, kind: str
    ) -> UpstreamResponse | None:
        """The 200 answer, or None when another replica may be tried."""
        self.node, self.waits_s = route.node.name, route.waits_s
        now = time.monotonic()
        if self.overhead_s is None:
            self.overhead_s = now - self.started - self.queue_s
        breaker = self.nodes.breaker(self.node)
        breaker.sent(now)
        try:
            answer = await self._ask(route, path, body)
            if isinstance(answer, UpstreamResponse):
                _check_type(answer, kind)
                breaker.succeeded()
                return answer
        except asyncio.CancelledError:
            breaker.abandoned()
            raise
        except (UpstreamError, KeyError) as failure:
            self._unreachable(failure)
        else:
            self._judge(route, answer)
            self._refused(route, path, answer)
        return None

    async def _ask(self, route: router.Route, path: str, body: bytes) -> UpstreamResponse | ApiError:
        """The head of a 200 answer, or the refusal; what was refused for its wording is put otherwise."""
        node, model = self.nodes.node(self.node), route.model.id
        headers, path = node.wording.headers(self.headers), node.config.path(path)
        while True:
            sent = node.wording.body(model, body)
            response = await node.pool.request("POST", path, headers=headers, body=sent)
            self.queue_s += response.queued_s
            if response.status == 200:
                return response
            refusal = await read_refusal(response)
            if not node.wording.learn(refusal, sent):
                return refusal

    def _judge(self, route: router.Route, error: ApiError) -> None:
        """What a refusal says of the node itself. A server's 403 may be about what was asked."""
        model, foreign = route.model.id, route.node.config.is_foreign
        if error.status == 401 or (error.status in DENIED and not foreign):
            self.nodes.mark_unauthorized(self.node)
        elif error.status in DENIED:
            self.nodes.mark_failed(self.node)
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

    def _refused(self, route: router.Route, path: str, error: ApiError) -> None:
        if error.status in DENIED:
            self._fail(_denied([self.node]))
        elif error.status in UNKNOWN and route.node.config.is_foreign:
            message = f"The node '{self.node}' answered {error.status} to {path}: {error.message}"
            self._fail(ApiError(error.status, "not_found", message))
        elif error.code == "worker_lost" and not self._may_repeat():
            raise error
        elif error.status in {429, 503} or error.code in _GONE:
            self._fail(error)
        else:
            raise error  # the request's own fault: every replica would say the same

    def _fail(self, error: ApiError) -> None:
        self._failed |= {self.node}
        self.failures += ((self.node, error.code),)
        self._last_error = error


def _denied(nodes: Collection[str]) -> ApiError:
    """Not the client's fault, and nothing it can do about it."""
    names = ", ".join(sorted(nodes))
    message = f"The gateway's token or API key is not accepted by {names}; set it where that is configured."
    return ApiError(502, "node_unauthorized", message)


def _check_type(response: UpstreamResponse, kind: str) -> None:
    """Something in between answers 200 with a page of its own."""
    given = response.header(b"content-type", kind)
    if not given.startswith(kind):
        response.close()
        raise UpstreamError("protocol", f"it answered with {given[:80]!r} instead of {kind}")

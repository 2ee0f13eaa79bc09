"""From a routed request to the head of a node's answer: choose, wait for a load, send, try the next replica.

Everything here happens before a byte has reached the client. A request that a node cannot have begun (no
connection, a kept one that was closed, a refusal) is tried on the next replica. One that the node may have
begun (it hung up, or answered no HTTP) is repeated too, once: a generation changes nothing anywhere and the
client has seen nothing of the first one, so a repetition costs computing alone. `gateway.repeat_unanswered`
turns that off, and such a request is answered with a 503. One that took too long is never repeated.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from fleet import router
from fleet.affinity import BYTES_PER_TOKEN, digests, published
from fleet.foreign.errors import MAX_ERROR_BYTES
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.response import UpstreamResponse
from fleet.gateway.nodes.refusals import read_refusal
from fleet.gateway.record import metrics
from fleet.gateway.record.draft import NO_TRAIL, Trail
from fleet.snapshot import Replicas
from fleet.translation import failure_alone
from neuron.wire import ApiError, prefix_marks

log = logging.getLogger("cortex.dispatch")

MAX_ATTEMPTS = 4
JSON, EVENTS = "application/json", "text/event-stream"  # content types of a node's answers
EVENT_DELAY_S = 1.0  # a node's event that a model is gone may arrive this much later than its refusal

DENIED = frozenset({401, 402, 403})  # our token or account is refused
UNKNOWN = frozenset({404, 405, 501})  # another server lacks the path, or no longer has the model

# The node did not answer because the model is not there now: another replica may, or a load brings it back.
_GONE = frozenset({"model_not_found", "model_loading", "model_unloaded", "worker_lost"})

_NOTHING: Mapping[str, int] = {}


class NodeRequest(msgspec.Struct, frozen=True):
    """What is asked of a node."""

    model: str  # resolved
    path: str
    headers: Mapping[str, str]
    body: bytes
    answer_type: str  # `JSON` or `EVENTS`
    received: float  # when the client's request came; monotonic seconds


class Dispatch:
    """One request's search for a replica that answers it.

    `follow` gets the trail after each step, so that it is known however the request ends.
    """

    _trail = NO_TRAIL
    _route: router.Route  # to the last replica
    _error: ApiError | None = None  # of the last replica
    _excluded: frozenset[str] = frozenset()  # nodes that failed this request
    _repeated = False
    _prefix: Sequence[int] = ()
    _marks: Sequence[tuple[int, int]] = ()

    def __init__(self, plane: DataPlane, request: NodeRequest, follow: Callable[[Trail], None]) -> None:
        self._plane = plane
        self._request = request
        self._follow = follow

    async def send(self) -> UpstreamResponse:
        """The head of a 200 answer from some replica. Raises `ApiError` when none gives one."""
        while True:
            self._route = route = self._choose() or await self._wait_for_route()
            answer = await self._attempt(route)
            if isinstance(answer, UpstreamResponse):
                if self._prefix:
                    self._plane.nodes.affinity.note(self._prefix, route.node.name)
                return answer
            self._pass_over(route.node.name, answer)

    def refuse(self, error: ApiError) -> None:
        """Take an error that the last answer stated in place of an answer: `send` then tries another replica.

        Raises the error where no other replica may be tried, or would say anything else.
        """
        self._pass_over(self._route.node.name, self._stated(self._route, error))

    def _note(self, **changes: Any) -> None:
        self._trail = msgspec.structs.replace(self._trail, **changes)
        self._follow(self._trail)

    def _pass_over(self, node: str, error: ApiError) -> None:
        """Exclude a node that failed; raises its error when there have been attempts enough."""
        self._error = error
        self._excluded |= {node}
        self._note(failures=(*self._trail.failures, (node, error.code)))
        retries = self._trail.retries + 1
        if retries == MAX_ATTEMPTS:
            raise error
        self._note(retries=retries)

    # --- choosing a replica ---

    def _choose(self) -> router.Route | None:
        """The best replica now."""
        model = self._request.model
        nodes = self._plane.nodes
        snapshot = self._plane.fleet.snapshot
        replicas = snapshot.replicas(model)
        if len(replicas) == 1 and not self._excluded and nodes.are_well:
            return router.Route(*replicas[0])
        closed, busy = nodes.troubled(model)
        facts = router.Facts(
            model,
            nodes.in_flight,
            exclude=self._excluded | closed,
            avoid=busy,
            prompt_tokens=len(self._request.body) // BYTES_PER_TOKEN,
            saved_tokens=self._saved_tokens(replicas),
        )
        return router.choose(snapshot, facts)

    def _saved_tokens(self, replicas: Replicas) -> Mapping[str, int]:
        """Prefill that a node saves, by node: as it says itself, else by our record of what it got."""
        if len(replicas) < router.MIN_CHOICE:
            return _NOTHING
        if not self._marks:
            self._prefix = digests(self._request.model, self._request.body)
            self._marks = prefix_marks(self._request.body)
        return self._plane.nodes.affinity.saved(self._prefix) | published(self._marks, replicas)

    async def _wait_for_route(self) -> router.Route:
        start = time.monotonic()
        while (route := self._choose()) is None:
            if self._error is not None and self._error.code not in _GONE:
                raise self._error
            model = self._request.model
            closed, _ = self._plane.nodes.troubled(model)
            if holders := closed & {node.name for node, _ in self._plane.fleet.snapshot.replicas(model)}:
                raise self._all_closed(holders)
            await self._wait_for_load()
        self._note(queue_s=self._trail.queue_s + time.monotonic() - start)
        return route

    def _all_closed(self, names: Collection[str]) -> ApiError:
        """Every node with a replica has an open breaker."""
        nodes = self._plane.nodes
        if all(nodes.breaker(name).unauthorized for name in names):
            return _denied(names)
        now = time.monotonic()
        wait_s = min(nodes.breaker(name).retry_after_s(now) for name in names)
        message = (
            "The nodes that have the model failed lately and are left alone for a moment: "
            f"{', '.join(sorted(names))}."
        )
        return ApiError(503, "node_unavailable", message, retry_after_s=math.ceil(wait_s) or 1)

    async def _wait_for_load(self) -> None:
        model = self._request.model
        fleet = self._plane.fleet
        if self._excluded:  # a node said that the model is gone: wait for its event, then ask it again
            await fleet.changed(EVENT_DELAY_S)
            self._excluded = frozenset()
        if fleet.snapshot.replicas(model):
            return
        self._note(cold=True)
        start = time.monotonic()
        try:
            await self._plane.loader.wait(model)
        finally:
            self._note(load_s=self._trail.load_s + time.monotonic() - start)

    # --- asking it ---

    async def _attempt(self, route: router.Route) -> UpstreamResponse | ApiError:
        """The 200 answer, or the error after which another replica may be tried; raises any other one."""
        name = route.node.name
        now = time.monotonic()
        trail = self._trail
        overhead_s = trail.overhead_s
        if overhead_s is None:
            overhead_s = now - self._request.received - trail.queue_s
        self._note(node=name, overhead_s=overhead_s, waits_s=route.waits_s)
        breaker = self._plane.nodes.breaker(name)
        breaker.sent(now)
        try:
            answer = await self._ask(name)
            if isinstance(answer, UpstreamResponse):
                error = await _error_alone(answer, self._request.answer_type)
                breaker.succeeded()
                return answer if error is None else self._stated(route, error)
        except asyncio.CancelledError:
            breaker.abandoned()
            raise
        except (UpstreamError, KeyError) as failure:
            return self._failed(name, failure)
        self._judge(route, answer)
        return self._refused(route, answer)

    async def _ask(self, name: str) -> UpstreamResponse | ApiError:
        """The head of a 200 answer, or the refusal. A request refused for its wording is reworded."""
        request = self._request
        node = self._plane.nodes.node(name)
        adapter = node.adapter
        path = node.config.path(request.path)
        headers = adapter.headers(request.headers)
        while True:
            body = adapter.body(request.model, request.body)
            response = await node.pool.request("POST", path, headers=headers, body=body)
            if response.queued_s:
                self._note(queue_s=self._trail.queue_s + response.queued_s)
            if response.status == 200:
                if notes := adapter.notes(response.headers):
                    self._note(notes=notes)
                return response
            refusal = await read_refusal(response)
            if not adapter.learn(refusal, body):
                return refusal

    def _failed(self, name: str, failure: UpstreamError | KeyError) -> ApiError:
        """The node did not answer. Returns or raises as `_attempt` does."""
        nodes = self._plane.nodes
        kind = failure.kind if isinstance(failure, UpstreamError) else "connect"
        log.warning("node failed a request", extra={"node": name, "kind": kind, "error": str(failure)})
        metrics.UPSTREAM_FAILURES.labels(name, kind).inc()
        if kind == "busy":
            nodes.breaker(name).abandoned()
            return ApiError(503, "node_busy", f"The node '{name}': {failure}.", retry_after_s=2)
        nodes.mark_failed(name)
        if kind == "connect":
            self._plane.fleet.set_unreachable(name, str(failure))
        code = "node_lost" if kind == "closed" else "node_unavailable"
        error = ApiError(503, code, f"The node '{name}' failed: {failure}.", retry_after_s=3)
        if kind == "timeout" or (kind != "connect" and not self._may_repeat()):
            raise error
        return error

    def _may_repeat(self) -> bool:
        """Whether a request that a node may have begun is sent again: once, for it may be what kills them."""
        first = not self._repeated
        self._repeated = True
        return first and self._plane.config.gateway.repeat_unanswered

    def _judge(self, route: router.Route, error: ApiError) -> None:
        """Take from a refusal what it says of the node itself. A server's 403 may be about the request."""
        name = route.node.name
        nodes = self._plane.nodes
        if error.status == 401 or (error.status in DENIED and not route.node.config.is_foreign):
            nodes.mark_unauthorized(name)
        elif error.status in DENIED:
            nodes.mark_failed(name)
        elif error.status in {429, 503} and error.retry_after_s and error.code not in _GONE:
            nodes.mark_busy(name, self._request.model, error.retry_after_s)
        elif error.status >= 500 and error.code not in _GONE:
            nodes.mark_failed(name)
        else:
            nodes.breaker(name).succeeded()

    def _refused(self, route: router.Route, error: ApiError) -> ApiError:
        """The node refused. Returns or raises as `_attempt` does."""
        name = route.node.name
        path = self._request.path
        if error.status in DENIED:
            return _denied([name])
        if error.status in UNKNOWN and route.node.config.is_foreign:
            message = f"The node '{name}' answered {error.status} to {path}: {error.message}"
            return ApiError(error.status, "not_found", message)
        if error.code == "worker_lost" and not self._may_repeat():
            raise error
        if error.status in {429, 503} or error.code in _GONE:
            return error
        raise error  # the request's own fault: every replica would say the same

    def _stated(self, route: router.Route, error: ApiError) -> ApiError:
        """The node stated an error in place of an answer. Returns or raises as `_attempt` does."""
        self._judge(route, error)
        if error.status >= 500 and error.code not in _GONE:
            return error
        return self._refused(route, error)


def _denied(names: Collection[str]) -> ApiError:
    """Not the client's fault, and nothing that the client can change."""
    nodes = ", ".join(sorted(names))
    message = f"The gateway's token or API key is not accepted by {nodes}; set it where that is configured."
    return ApiError(502, "node_unauthorized", message)


async def _error_alone(response: UpstreamResponse, expected: str) -> ApiError | None:
    """The error that a node states as JSON in place of a stream.

    Raises `UpstreamError` for a 200 of another content type, such as a page of a proxy in between.
    """
    given = response.header(b"content-type", expected)
    if given.startswith(expected):
        return None
    try:
        body = await response.read(MAX_ERROR_BYTES) if given.startswith(JSON) else b""
    finally:
        response.close()
    if failure := failure_alone(body):
        return failure.as_error()
    raise UpstreamError("protocol", f"it answered with {given[:80]!r} instead of {expected}")

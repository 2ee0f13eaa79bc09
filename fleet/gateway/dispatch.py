# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
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
from collections.abc import Collection, Mapping, Sequence

import msgspec

from ext.ledger import Entry
from fleet.affinity import BLOCK_BYTES, BYTES_PER_TOKEN, digests, published
from fleet.breaker import Breaker
from fleet.foreign.errors import MAX_ERROR_BYTES
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.pool import Begun
from fleet.gateway.http.response import UpstreamResponse
from fleet.gateway.nodes.nodes import Node
from fleet.gateway.nodes.refusals import read_refusal
from fleet.gateway.record import metrics
from fleet.router import MIN_CHOICE, Facts, Route, choose
from fleet.snapshot import Replicas
from fleet.translation import failure_alone
from neuron.wire import ApiError, prefix_marks

log = logging.getLogger("cortex.dispatch")

MAX_ATTEMPTS = 4
JSON, EVENTS = b"application/json", b"text/event-stream"  # content types of a node's answers
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
    lines: bytes  # headers, each with its CRLF
    caller: bytes  # the same, of whose request it is: for neurons alone
    body: bytes
    answer_type: bytes  # `JSON` or `EVENTS`


class Dispatch:
    """One request's search for a replica that answers it. Its way there is noted in `entry`, step by step."""

    _route: Route  # to the last replica
    _node: Node  # of the attempt that was begun

    def __init__(self, plane: DataPlane, request: NodeRequest, entry: Entry) -> None:
        self._plane = plane
        self._request = request
        self._entry = entry
        self._begun: Begun | None = None  # that attempt, as long as no task waits for its answer
        self._error: ApiError | None = None  # of the last replica
        self._excluded: frozenset[str] = frozenset()  # nodes that failed this request
        self._repeated = False
        self._prefix: Sequence[int] = ()
        self._marks: Sequence[tuple[int, int]] = ()

    @property
    def has_begun(self) -> bool:
        return self._begun is not None

    def begin(self) -> Begun | None:
        """Ask a replica at once; None where that would have to be waited for. `send` or `accept` follows."""
        nodes = self._plane.nodes
        route = self._choose()
        node = nodes.get(route.node.name) if route is not None else None
        if route is None or node is None:
            return None
        path, lines, body = self._worded(node)
        pool = node.pool
        self._begun = begun = pool.begin("POST", path, lines, body)
        if begun is not None:
            self._node = node
            self._asked(route, node.breaker)
        return begun

    def accept(self, begun: Begun) -> bool:
        """Accept the answer to a request that was begun, if it is one: `send` judges any other."""
        answer = begun.connection.answer
        if answer.status != 200 or not _is_of_type(answer.headers, self._request.answer_type):
            return False
        self._begun = None
        self._accepted(self._node, answer.headers)
        return True

    def abandon(self) -> None:
        """Give up a request that was begun: its client left."""
        if self._begun is not None:
            self._plane.nodes.breaker(self._route.node.name).abandoned()

    async def send(self) -> UpstreamResponse:
        """The head of a 200 answer from some replica. Raises `ApiError` when none gives one."""
        while True:
            if self._begun is None:
                route = self._choose() or await self._wait_for_route()
                self._asked(route, self._plane.nodes.breaker(route.node.name))
            route = self._route
            answer = await self._attempt(route)
            if isinstance(answer, UpstreamResponse):
                return answer
            self._pass_over(route.node.name, answer)

    def _asked(self, route: Route, breaker: Breaker) -> None:
        """Note that a replica is asked."""
        self._route = route
        now, entry = time.monotonic(), self._entry
        if entry.overhead_s < 0:
            entry.overhead_s = max(0.0, now - entry.received - entry.queue_s)
        entry.node, entry.waits_s = route.node.name, route.waits_s
        breaker.sent(now)

    def _accepted(self, node: Node, headers: dict[bytes, bytes]) -> None:
        """Note a 200 answer."""
        adapter = node.adapter
        if notes := adapter.notes(headers):
            self._entry.notes = notes
        breaker = node.breaker
        breaker.succeeded()
        if self._prefix:
            self._plane.nodes.affinity.note(self._prefix, node.config.name)

    def refuse(self, error: ApiError) -> None:
        """Take an error that the last answer stated in place of an answer: `send` then tries another replica.

        Raises the error where no other replica may be tried, or would say anything else.
        """
        self._pass_over(self._route.node.name, self._stated(self._route, error))

    def _pass_over(self, node: str, error: ApiError) -> None:
        """Exclude a node that failed; raises its error when there have been attempts enough."""
        self._error = error
        self._excluded |= {node}
        entry = self._entry
        entry.attempts = (*entry.attempts, (node, error.code))
        if entry.retries + 1 == MAX_ATTEMPTS:
            raise error
        entry.retries += 1

    # --- choosing a replica ---

    def _choose(self) -> Route | None:
        """The best replica now."""
        model = self._request.model
        nodes = self._plane.nodes
        snapshot = self._plane.fleet.snapshot
        replicas = snapshot.replicas(model)
        if len(replicas) == 1 and not self._excluded and nodes.are_well:
            return Route(replicas[0][0], replicas[0][1])
        closed, busy = nodes.troubled(model)
        facts = Facts(
            model,
            nodes.in_flight,
            exclude=self._excluded | closed,
            avoid=busy,
            prompt_tokens=len(self._request.body) // BYTES_PER_TOKEN,
            saved_tokens=self._saved_tokens(replicas),
        )
        return choose(snapshot, facts)

    def _saved_tokens(self, replicas: Replicas) -> Mapping[str, int]:
        """Prefill that a node saves, by node: as it says itself, else by our record of what it got."""
        if len(replicas) < MIN_CHOICE or len(self._request.body) < BLOCK_BYTES:
            return _NOTHING
        if not self._marks:
            self._prefix = digests(self._request.model, self._request.body)
            self._marks = prefix_marks(self._request.body)
        return self._plane.nodes.affinity.saved(self._prefix) | published(self._marks, replicas)

    async def _wait_for_route(self) -> Route:
        start = time.monotonic()
        while (route := self._choose()) is None:
            if self._error is not None and self._error.code not in _GONE:
                raise self._error
            model = self._request.model
            closed, _ = self._plane.nodes.troubled(model)
            if holders := closed & {node.name for node, _ in self._plane.fleet.snapshot.replicas(model)}:
                raise self._all_closed(holders)
            await self._wait_for_load()
        self._entry.queue_s += time.monotonic() - start
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
        self._entry.cold = True
        start = time.monotonic()
        try:
            await self._plane.loader.wait(model)
        finally:
            self._entry.load_s += time.monotonic() - start

    # --- asking it ---

    async def _attempt(self, route: Route) -> UpstreamResponse | ApiError:
        """The 200 answer, or the error after which another replica may be tried; raises any other one."""
        name = route.node.name
        breaker = self._plane.nodes.breaker(name)
        try:
            node = self._plane.nodes.node(name)
            answer = await self._ask(node)
            if isinstance(answer, UpstreamResponse):
                error = await _error_alone(answer, self._request.answer_type)
                if error is None:
                    self._accepted(node, answer.headers)
                    return answer
                breaker.succeeded()
                return self._stated(route, error)
        except asyncio.CancelledError:
            breaker.abandoned()
            raise
        except (UpstreamError, KeyError) as failure:
            return self._failed(name, failure)
        self._judge(route, answer)
        return self._refused(route, answer)

    async def _ask(self, node: Node) -> UpstreamResponse | ApiError:
        """The head of a 200 answer, or the refusal. A request refused for its wording is reworded."""
        while True:
            path, lines, body = self._worded(node)
            begun, self._begun = self._begun, None
            if begun is not None:
                body, response = begun.body, await begun.answer()
            else:
                response = await node.pool.request("POST", path, lines=lines, body=body)
            self._entry.queue_s += response.queued_s
            if response.status == 200:
                return response
            refusal = await read_refusal(response)
            if not node.adapter.learn(refusal, body):
                return refusal

    def _worded(self, node: Node) -> tuple[str, bytes, bytes]:
        """Path, header lines and body of the request in a node's terms."""
        request, adapter = self._request, node.adapter
        return (
            adapter.path(request.path),
            adapter.lines(request.lines, request.caller),
            adapter.body(request.model, request.body),
        )

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

    def _judge(self, route: Route, error: ApiError) -> None:
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

    def _refused(self, route: Route, error: ApiError) -> ApiError:
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

    def _stated(self, route: Route, error: ApiError) -> ApiError:
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


def _is_of_type(headers: Mapping[bytes, bytes], expected: bytes) -> bool:
    """Whether an answer is of the expected content type, or says nothing of it."""
    given = headers.get(b"content-type")
    return given is None or given.startswith(expected)


async def _error_alone(response: UpstreamResponse, expected: bytes) -> ApiError | None:
    """The error that a node states as JSON in place of a stream.

    Raises `UpstreamError` for a 200 of another content type, such as a page of a proxy in between.
    """
    if _is_of_type(response.headers, expected):
        return None
    given = response.headers.get(b"content-type", b"")
    try:
        body = await response.read(MAX_ERROR_BYTES) if given.startswith(JSON) else b""
    finally:
        response.close()
    if failure := failure_alone(body):
        return failure.as_error()
    raise UpstreamError(
        "protocol", f"it answered with {str(given[:80], 'latin-1')!r} instead of {expected.decode()}"
    )

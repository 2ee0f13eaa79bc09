"""Which replica answers a request: a pure function of the snapshot and of what this worker knows beside it.

A replica's cost is the wait that is expected there, in seconds: for the requests before this one, for the
prefill that no cache saves, for KV memory that is short. Among many replicas two are drawn at random and the
better one is taken (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): every
worker sees the same load reports, some hundred milliseconds old, and would send everything to the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from random import randrange

import msgspec

from fleet.snapshot import FleetSnapshot, ModelView, NodeView

MIN_CHOICE = 2  # replicas; with fewer there is nothing to compare
SAMPLE_ABOVE = 8  # replicas; up to so many are all compared
LOAD_FACTOR = 1.25  # a cached prefix counts up to this multiple of the others' load
ANSWER_S = 5.0  # an ordinary answer on a node that runs nothing else
SLOWDOWN_S = 0.2  # the delay that one more request in a batch causes
PREFILL_TOKENS_PER_S = 4000.0  # of a node that does not report it
KV_LOW = 0.05  # free fraction below which requests are preempted


class Route(msgspec.Struct, frozen=True):
    """A chosen replica, and the expected wait on each that was compared, itself included."""

    node: NodeView
    model: ModelView
    waits_s: tuple[tuple[str, float], ...] = ()


class Facts(msgspec.Struct, frozen=True):
    """A request, and what this worker knows beside the snapshot."""

    model: str  # resolved
    in_flight: Callable[[str], int]  # this worker's requests on a node
    exclude: Collection[str] = ()  # nodes that failed this request, or whose breaker is open
    avoid: Collection[str] = ()  # busy nodes: chosen only when there is no other
    prompt_tokens: int = 0
    saved_tokens: Mapping[str, int] = {}  # prefill that a node has cached, by node
    draw: Callable[[int], int] = randrange  # noqa: S311 - an index below the argument; no secret


def choose(snapshot: FleetSnapshot, facts: Facts) -> Route | None:
    """The replica with the least expected wait; None when none may be asked. A tie is drawn for."""
    replicas = snapshot.replicas(facts.model)
    many = len(replicas) > SAMPLE_ABOVE
    candidates = _draw(snapshot, replicas, facts) if many else _all(replicas, facts)
    if not candidates:
        candidates = _all(replicas, facts)
    if len(candidates) < MIN_CHOICE:
        return candidates[0] if candidates else None
    loads = [_load(route, facts) for route in candidates]
    limit = _cached_up_to(candidates, loads, facts) if facts.saved_tokens else 0.0
    costs = [
        _cost(route, load, facts, cached=load <= limit) for route, load in zip(candidates, loads, strict=True)
    ]
    least = min(costs)
    best = [route for route, cost in zip(candidates, costs, strict=True) if cost == least]
    chosen = best[0] if len(best) == 1 else best[facts.draw(len(best))]
    waits = tuple((route.node.name, cost) for route, cost in zip(candidates, costs, strict=True))
    return Route(chosen.node, chosen.model, waits)


def _all(replicas: Sequence[tuple[NodeView, ModelView]], facts: Facts) -> list[Route]:
    possible = [Route(node, view) for node, view in replicas if node.name not in facts.exclude]
    return [route for route in possible if route.node.name not in facts.avoid] or possible


def _draw(
    snapshot: FleetSnapshot, replicas: Sequence[tuple[NodeView, ModelView]], facts: Facts
) -> list[Route]:
    """Two of many replicas, and two of those that hold the prompt's beginning."""
    first = facts.draw(len(replicas))
    second = (first + 1 + facts.draw(len(replicas) - 1)) % len(replicas)
    drawn = {node.name: Route(node, view) for node, view in (replicas[first], replicas[second])}
    holders = [name for name, tokens in facts.saved_tokens.items() if tokens]
    if len(holders) > 2:
        at = facts.draw(len(holders))
        holders = [holders[at], holders[at - 1]]
    for name in holders:
        if name not in drawn and (replica := snapshot.replica(facts.model, name)):
            drawn[name] = Route(*replica)
    return [route for name, route in drawn.items() if name not in facts.exclude and name not in facts.avoid]


def _load(route: Route, facts: Facts) -> int:
    """The requests there: as reported some hundred milliseconds ago, and sent by this worker since."""
    now = facts.in_flight(route.node.name)
    said = route.model.running + route.model.waiting
    return max(said + now - route.node.in_flight, now)


def _cached_up_to(candidates: Sequence[Route], loads: Sequence[int], facts: Facts) -> float:
    """The load up to which a cached prefix counts, relative to that of replicas without it."""
    others = [
        load
        for route, load in zip(candidates, loads, strict=True)
        if not facts.saved_tokens.get(route.node.name)
    ]
    compared = others or loads
    return LOAD_FACTOR * (sum(compared) / len(compared) + 1)


def _cost(route: Route, load: int, facts: Facts, *, cached: bool) -> float:
    """Seconds until this request's first token, and what it costs the others."""
    view = route.model
    prefill = facts.prompt_tokens
    if cached and facts.saved_tokens:
        prefill = max(0, prefill - facts.saved_tokens.get(route.node.name, 0))
    cost = load * SLOWDOWN_S + prefill / (view.tok_s_prefill or PREFILL_TOKENS_PER_S)
    if view.max_running and load >= view.max_running:
        cost += (load + 1 - view.max_running) * ANSWER_S / view.max_running
    if view.kv_free is not None and view.kv_free < KV_LOW:
        cost += ANSWER_S
    return cost

# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False, cdivision=True
"""Which replica answers a request: a pure function of the snapshot and of what this worker knows beside it.

A replica's cost is the wait that is expected there, in seconds: for the requests before this one, for the
prefill that no cache saves, for KV memory that is short. Among many replicas two are drawn at random and the
better one is taken (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): every
worker sees the same load reports, some hundred milliseconds old, and would send everything to the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from random import random

from fleet.snapshot import FleetSnapshot, ModelView, NodeView, Replicas

MIN_CHOICE = 2  # replicas; with fewer there is nothing to compare
SAMPLE_ABOVE = 8  # replicas; up to so many are all compared
LOAD_FACTOR = 1.25  # a cached prefix counts up to this multiple of the others' load
ANSWER_S = _ANSWER_S = 5.0  # an ordinary answer on a node that runs nothing else
SLOWDOWN_S = _SLOWDOWN_S = 0.2  # the delay that one more request in a batch causes
PREFILL_TOKENS_PER_S = 4000.0  # of a node that does not report it
KV_LOW = 0.05  # free fraction below which requests are preempted

_NOTHING: Mapping[str, int] = {}
_Replica = tuple[NodeView, ModelView]


def _below(end: int) -> int:
    """A random index; it need not be secret."""
    return int(random() * end)  # noqa: S311


class Route:
    """A chosen replica, and the expected wait on each that was compared, itself included."""

    def __init__(self, node: NodeView, model: ModelView, waits_s: tuple[tuple[str, float], ...] = ()) -> None:
        self.node = node
        self.model = model
        self.waits_s = waits_s


class Facts:
    """A request, and what this worker knows beside the snapshot."""

    def __init__(  # noqa: PLR0913 - its fields
        self,
        model: str,
        in_flight: Callable[[str], int],
        *,
        exclude: Collection[str] = (),
        avoid: Collection[str] = (),
        prompt_tokens: int = 0,
        saved_tokens: Mapping[str, int] = _NOTHING,
        draw: Callable[[int], int] = _below,
    ) -> None:
        self.model = model  # resolved
        self.in_flight = in_flight  # this worker's requests on a node
        self.exclude = exclude  # nodes that failed this request, or whose breaker is open
        self.avoid = avoid  # busy nodes: chosen only when there is no other
        self.prompt_tokens = prompt_tokens
        self.saved_tokens = saved_tokens  # prefill that a node has cached, by node
        self.draw = draw  # an index below the argument


def choose(snapshot: FleetSnapshot, facts: Facts) -> Route | None:
    """The replica with the least expected wait; None when none may be asked. A tie is drawn for."""
    replicas = snapshot.replicas(facts.model)
    candidates = _drawn(snapshot, replicas, facts) if len(replicas) > SAMPLE_ABOVE else []
    if not candidates:
        candidates = _possible(replicas, facts)
    if len(candidates) < MIN_CHOICE:
        return Route(*candidates[0]) if candidates else None
    loads = [_load(node, view, facts) for node, view in candidates]
    limit = _cached_up_to(candidates, loads, facts) if facts.saved_tokens else 0.0
    least = math.inf
    best: list[_Replica] = []
    waits: list[tuple[str, float]] = []
    for at in range(len(candidates)):
        node, view = candidates[at]
        cost = _cost(view, loads[at], _prefill(node, loads[at], limit, facts))
        waits.append((node.name, cost))
        if cost < least:
            least, best = cost, []
        if cost == least:
            best.append(candidates[at])
    node, view = best[0] if len(best) == 1 else best[facts.draw(len(best))]
    return Route(node, view, tuple(waits))


def _possible(replicas: Sequence[_Replica], facts: Facts) -> list[_Replica]:
    if not facts.exclude and not facts.avoid:
        return list(replicas)
    possible = [pair for pair in replicas if pair[0].name not in facts.exclude]
    return [pair for pair in possible if pair[0].name not in facts.avoid] or possible


def _drawn(snapshot: FleetSnapshot, replicas: Replicas, facts: Facts) -> list[_Replica]:
    """Two of many replicas, and two of those that hold the prompt's beginning, that may be asked."""
    count = len(replicas)
    first = facts.draw(count)
    second = (first + 1 + facts.draw(count - 1)) % count
    drawn = [replicas[first], replicas[second]]
    if facts.saved_tokens:
        drawn += _holders(snapshot, drawn, facts)
    if not facts.exclude and not facts.avoid:
        return drawn
    return [pair for pair in drawn if pair[0].name not in facts.exclude and pair[0].name not in facts.avoid]


def _holders(snapshot: FleetSnapshot, drawn: Sequence[_Replica], facts: Facts) -> list[_Replica]:
    names = [name for name, tokens in facts.saved_tokens.items() if tokens]
    if len(names) > 2:
        at = facts.draw(len(names))
        names = [names[at], names[at - 1 if at else -1]]
    others = [name for name in names if name not in (drawn[0][0].name, drawn[1][0].name)]
    return [pair for name in others if (pair := snapshot.replica(facts.model, name)) is not None]


def _load(node: NodeView, view: ModelView, facts: Facts) -> int:
    """The requests there: as reported some hundred milliseconds ago, and sent by this worker since."""
    now = facts.in_flight(node.name)
    said = view.running + view.waiting + now - node.in_flight
    return max(said, now)


def _cached_up_to(candidates: Sequence[_Replica], loads: Sequence[int], facts: Facts) -> float:
    """The load up to which a cached prefix counts, relative to that of replicas without it."""
    others = [
        load
        for (node, _), load in zip(candidates, loads, strict=True)
        if not facts.saved_tokens.get(node.name)
    ]
    compared = others or loads
    return LOAD_FACTOR * (sum(compared) / len(compared) + 1)


def _prefill(node: NodeView, load: int, limit: float, facts: Facts) -> int:
    """The tokens of the prompt that a replica has to read; cached ones count up to a load of `limit`."""
    if load > limit or not facts.saved_tokens:
        return facts.prompt_tokens
    return max(0, facts.prompt_tokens - facts.saved_tokens.get(node.name, 0))


def _cost(view: ModelView, load: int, prefill: int) -> float:
    """Seconds until this request's first token, and what it costs the others."""
    most, free = view.max_running, view.kv_free
    cost = load * _SLOWDOWN_S + prefill / (view.tok_s_prefill or PREFILL_TOKENS_PER_S)
    if most and load >= most:
        cost += (load + 1 - most) * _ANSWER_S / most
    if free is not None and free < KV_LOW:
        cost += _ANSWER_S
    return cost

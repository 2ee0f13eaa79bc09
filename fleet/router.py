"""Which replica answers a request: pure, a function of the snapshot and of what this worker has under way."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from fleet.snapshot import FleetSnapshot, ModelView, NodeView


@dataclass(frozen=True, slots=True)
class Route:
    """A chosen replica."""

    node: NodeView
    model: ModelView


def choose(
    snapshot: FleetSnapshot,
    model: str,
    *,
    in_flight: Callable[[str], int],
    exclude: Collection[str] = (),
) -> Route | None:
    """The replica of the (resolved) `model` with the least to do, or None when none is loaded.

    A replica's burden is what it said it runs and queues, or what this worker has under way there if that is
    more: a node's word is some hundred milliseconds old, our own count is not. Ties go to the first name.
    `exclude` names nodes that failed this request already.
    """
    candidates = [Route(node, view) for node, view in snapshot.replicas(model) if node.name not in exclude]
    return min(
        candidates,
        key=lambda route: max(route.model.running + route.model.waiting, in_flight(route.node.name)),
        default=None,
    )

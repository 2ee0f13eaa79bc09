"""Which models are evicted to make room for another one: a pure function of what is resident on a node.

A model may evict models of its own residency priority and below, except pinned ones, those with a request
under way, and those that arrived less than their minimum residency ago. The strategy orders the rest by
value: `lru` by last use alone, `priority` by priority first. The chosen set is the cheapest that frees
enough: its most valuable member is the least valuable one possible, and no member is superfluous.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Strategy = Literal["lru", "priority"]


@dataclass(frozen=True, slots=True)
class Resident:
    """A model on a node, with what its eviction depends on."""

    model: str
    memory_mb: Mapping[int, int]  # by device index
    priority: int = 100
    pinned: bool = False
    busy: bool = False
    moving: bool = False  # being loaded or unloaded
    is_group: bool = False  # its devices work together, led by the first: groups that overlap share that one
    idle_s: float = 0.0  # since its last request, or since it was loaded
    resident_s: float = 0.0
    min_residency_s: float = 0.0

    @property
    def total_mb(self) -> int:
        return sum(self.memory_mb.values())

    @property
    def is_held(self) -> bool:
        """Whether it cannot be evicted now, but later."""
        return self.busy or self.resident_s < self.min_residency_s

    def may_yield_to(self, priority: int) -> bool:
        """Whether a model of that priority may ever evict it."""
        return not self.pinned and self.priority <= priority


def displaceable(residents: Iterable[Resident], priority: int) -> list[Resident]:
    """The residents that a model of that priority may evict now."""
    return [resident for resident in residents if resident.may_yield_to(priority) and not resident.is_held]


def choose(
    candidates: Iterable[Resident], deficits_mb: Mapping[int, int], strategy: Strategy
) -> tuple[Resident, ...] | None:
    """The cheapest of `candidates` whose eviction frees `deficits_mb`, by device; None if all are too few.

    Linear in candidates times devices, apart from the sort.
    """
    by_value = sorted(candidates, key=lambda resident: _value(resident, strategy))
    chosen: list[Resident] = []
    for resident in by_value:
        if _is_enough(chosen, deficits_mb):
            break
        if any(resident.memory_mb.get(index) for index, deficit in deficits_mb.items() if deficit > 0):
            chosen.append(resident)
    if not _is_enough(chosen, deficits_mb):
        return None
    for resident in reversed(chosen.copy()):  # spare the most valuable ones first
        rest = [other for other in chosen if other is not resident]
        if _is_enough(rest, deficits_mb):
            chosen = rest
    return tuple(chosen)


def _value(resident: Resident, strategy: Strategy) -> tuple[float, float, str]:
    match strategy:
        case "lru":
            return 0, -resident.idle_s, resident.model
        case "priority":
            return resident.priority, -resident.idle_s, resident.model


def _is_enough(victims: Sequence[Resident], deficits_mb: Mapping[int, int]) -> bool:
    return all(
        sum(victim.memory_mb.get(index, 0) for victim in victims) >= deficit
        for index, deficit in deficits_mb.items()
    )

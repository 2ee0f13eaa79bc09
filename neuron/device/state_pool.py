"""What layers keep of a sequence besides keys and values: recurrent states, and the tails of convolutions.

A state has the same size after one token as after a thousand, and knows its sequence's end only. So it has
neither pages nor prefixes: there is one in each slot, next to the slot's row in the page table. It begins
with the sequence's first token, whatever the slot held before, and is lost when another request takes the
slot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from neuron.device.batch import Batch
from neuron.device.kv_cache import allocate_zeros
from neuron.step import CacheShape, StepPlan


class StateName(NamedTuple):
    """One of the states that a layer keeps."""

    layer: int
    kind: str  # "conv" or "recurrent"
    number: int  # among the layer's states of this kind


@dataclass(frozen=True, slots=True)
class StateShape:
    """A state of one sequence, in the type that the layer keeps it in."""

    dims: tuple[int, ...]
    dtype: torch.dtype


def bytes_per_slot(shapes: Mapping[StateName, StateShape]) -> int:
    """Return the bytes that one sequence's states take."""
    return sum(prod(shape.dims) * shape.dtype.itemsize for shape in shapes.values())


class StatePool:
    """The states of every slot and after them those of every snapshot, (slots + snapshots, *dims) each."""

    def __init__(
        self, states: Mapping[StateName, StateShape], shape: CacheShape, device: torch.device
    ) -> None:
        count = shape.num_slots + shape.num_snapshots
        self.num_bytes = bytes_per_slot(states) * count
        self._first_snapshot = shape.num_slots
        self._states = {
            name: allocate_zeros((count, *state.dims), dtype=state.dtype, device=device)
            for name, state in states.items()
        }

    def restore(self, plan: StepPlan) -> None:
        """Give the slots that join with a snapshot its states."""
        for joined in plan.joined:
            if joined.snapshot is not None:
                self._copy(self._first_snapshot + joined.snapshot, joined.slot)

    def keep(self, plan: StepPlan) -> None:
        """Take the snapshots that a plan asks for, after it has run."""
        for chunk in plan.chunks:
            if chunk.snapshot is not None:
                self._copy(chunk.slot, self._first_snapshot + chunk.snapshot)

    def _copy(self, source: int, target: int) -> None:
        for states in self._states.values():
            states[target] = states[source]

    def read(self, name: StateName, slots: Tensor) -> Tensor:
        """Return a copy of some slots' states, (slots, *dims)."""
        return self._states[name].index_select(0, slots)

    def write(self, name: StateName, slots: Tensor, states: Tensor) -> None:
        """Store what `read` would return."""
        pool = self._states[name]
        pool.index_copy_(0, slots, states.to(pool.dtype))


@dataclass(frozen=True, slots=True)
class StateGroup:
    """Rows `start:end` of the flat batch: `rows` chunks of `width` tokens each, with states in `slots`."""

    pool: StatePool
    slots: Tensor
    start: int
    width: int
    is_fresh: bool  # all of them begin their sequences; otherwise none does

    @property
    def rows(self) -> int:
        return len(self.slots)

    @property
    def end(self) -> int:
        return self.start + self.rows * self.width


def group_states(pool: StatePool, plan: StepPlan, batch: Batch) -> list[StateGroup]:
    """Return the groups that run together through a layer with states, in the order of the flat batch."""
    groups: list[StateGroup] = []
    start = 0
    alike = groupby(batch.order, key=lambda at: (len(plan.chunks[at].tokens), plan.chunks[at].start == 0))
    for (width, is_fresh), members in alike:
        slots = torch.tensor([plan.chunks[at].slot for at in members], device=batch.tokens.device)
        groups.append(StateGroup(pool, slots, start, width, is_fresh))
        start = groups[-1].end
    return groups


def split_groups(groups: Sequence[StateGroup]) -> Iterator[StateGroup]:
    """Yield a group for each chunk of `groups`, as if it were the whole flat batch."""
    for group in groups:
        for row in range(group.rows):
            yield replace(group, slots=group.slots[row : row + 1], start=0)


_groups: ContextVar[Sequence[StateGroup]] = ContextVar("state_groups")


@contextmanager
def use_state_groups(groups: Sequence[StateGroup]) -> Iterator[None]:
    """Let `state_groups` return `groups` inside the block."""
    token = _groups.set(groups)
    try:
        yield
    finally:
        _groups.reset(token)


def state_groups() -> Sequence[StateGroup]:
    """Return the groups of the step that runs."""
    return _groups.get()

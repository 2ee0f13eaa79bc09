"""What layers keep of a sequence besides keys and values: recurrent states, and the tails of convolutions.

A state has the same size after one token as after a thousand, and knows its sequence's end only. So it has
neither pages nor prefixes: there is one in each slot, next to the slot's row in the page table. It begins
as zeros with the sequence's first token, whatever the slot held before, and is lost when another request
takes the slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from neuron.device.batch import Batch
from neuron.device.page_pool import allocate_zeros
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
    """The states of every slot, then those of the page table's padding slot, then those of every snapshot:
    (slots + 1 + snapshots, *dims) each."""

    def __init__(
        self, states: Mapping[StateName, StateShape], shape: CacheShape, device: torch.device
    ) -> None:
        count = shape.num_slots + 1 + shape.num_snapshots
        self.num_bytes = bytes_per_slot(states) * count
        self._first_snapshot = shape.num_slots + 1
        self._states = {
            name: allocate_zeros((count, *state.dims), dtype=state.dtype, device=device)
            for name, state in states.items()
        }

    def restore(self, plan: StepPlan) -> None:
        """Give the slots that join the states of their snapshots, or zeros."""
        for joined in plan.joined:
            if joined.snapshot is not None:
                self._copy(self._first_snapshot + joined.snapshot, joined.slot)
            else:
                for states in self._states.values():
                    states[joined.slot] = 0

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

    def view(self, name: StateName, slots: slice) -> Tensor:
        """Return neighbouring slots' states as they lie in the pool, (slots, *dims)."""
        return self._states[name][slots]


Update = Callable[..., Tensor]
"""Changes states in place, given inputs with as many rows, and returns a tensor with as many. A row whose
inputs are all zero leaves its state as it is."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The slots from a group's first to its last, where few of them are others'."""

    slots: slice
    places: Tensor | None  # of the group's rows among them, (rows,); None where each is in its place

    @property
    def count(self) -> int:
        return int(self.slots.stop - self.slots.start)


@dataclass(frozen=True, slots=True)
class StateGroup:
    """Rows `start:end` of the flat batch: `rows` chunks of `width` tokens each, with states in `slots`."""

    pool: StatePool
    slots: Tensor
    start: int
    width: int
    is_fresh: bool  # all of them begin their sequences; otherwise none does
    neighbours: Neighbours | None = None

    @property
    def rows(self) -> int:
        return len(self.slots)

    @property
    def end(self) -> int:
        return self.start + self.rows * self.width

    def cut(self, flat: Tensor) -> Tensor:
        """Return the group's part of a flat batch's tensor, (rows, width, …) of (tokens, …)."""
        return flat[self.start : self.end].view(self.rows, self.width, *flat.shape[1:])

    def read(self, name: StateName) -> Tensor:
        """Return a copy of the states, (rows, *dims)."""
        return self.pool.read(name, self.slots)

    def write(self, name: StateName, states: Tensor) -> None:
        self.pool.write(name, self.slots, states)

    def update(self, name: StateName, update: Update, *inputs: Tensor) -> Tensor:
        """Return what `update` makes of the states and of `inputs`, (rows, …) each.

        States of neighbouring slots are changed where they lie: to copy them out and back would take as long
        as the arithmetic.
        """
        near = self.neighbours
        if near is None:
            states = self.read(name)
            out = update(states, *inputs)
            self.write(name, states)
            return out
        states = self.pool.view(name, near.slots)
        if near.places is None:
            return update(states, *inputs)
        spread = (x.new_zeros(near.count, *x.shape[1:]).index_copy_(0, near.places, x) for x in inputs)
        return update(states, *spread).index_select(0, near.places)


def group_states(pool: StatePool, plan: StepPlan, batch: Batch) -> list[StateGroup]:
    """Return the groups that run together through a layer with states, in the order of the flat batch."""
    groups: list[StateGroup] = []
    start = 0
    alike = groupby(batch.order, key=lambda at: (len(plan.chunks[at].tokens), plan.chunks[at].start == 0))
    for (width, is_fresh), members in alike:
        slots = torch.tensor([plan.chunks[at].slot for at in members])
        near = _neighbours(slots, batch.tokens.device)
        groups.append(StateGroup(pool, slots.to(batch.tokens.device), start, width, is_fresh, near))
        start = groups[-1].end
    return groups


def _neighbours(slots: Tensor, device: torch.device) -> Neighbours | None:
    """Return the neighbours that a group's slots make up, unless half of these were others'."""
    first, end = int(slots.min()), int(slots.max()) + 1
    if end - first > 2 * len(slots) - 1:
        return None
    is_in_place = end - first == len(slots) and bool((slots.diff() == 1).all())
    return Neighbours(slice(first, end), None if is_in_place else (slots - first).to(device))


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

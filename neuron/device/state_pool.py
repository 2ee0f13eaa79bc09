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
    (slots + 1 + snapshots, *dims) each. With `drafts`, last those of every slot before its drafts.

    Snapshots that left the device are in host memory, pinned beside a GPU.
    """

    def __init__(
        self,
        states: Mapping[StateName, StateShape],
        shape: CacheShape,
        device: torch.device,
        *,
        drafts: bool = False,
    ) -> None:
        self._first_snapshot = shape.num_slots + 1
        self._first_held = self._first_snapshot + shape.num_snapshots
        count = self._first_held + (shape.num_slots if drafts else 0)
        self._num_snapshots = shape.num_snapshots
        is_host = device.type == "cpu"
        self.num_bytes = bytes_per_slot(states) * (count + (shape.num_host_snapshots if is_host else 0))
        self._states = {
            name: allocate_zeros((count, *state.dims), dtype=state.dtype, device=device)
            for name, state in states.items()
        }
        self._host = {
            name: _allocate_host((shape.num_host_snapshots, *state.dims), state.dtype, device)
            for name, state in states.items()
            if shape.num_host_snapshots
        }

    def leave(self, plan: StepPlan) -> None:
        """Copy snapshots to host memory."""
        for snapshot, row in plan.leaving_states:
            for name, states in self._states.items():
                self._host[name][row - self._num_snapshots].copy_(states[self._first_snapshot + snapshot])

    def restore(self, plan: StepPlan) -> None:
        """Give the slots that join the states of their snapshots, or zeros."""
        for joined in plan.joined:
            if joined.snapshot is None:
                for states in self._states.values():
                    states[joined.slot] = 0
            elif joined.snapshot < self._num_snapshots:
                self._copy(self._first_snapshot + joined.snapshot, joined.slot)
            else:
                for name, states in self._states.items():
                    states[joined.slot].copy_(self._host[name][joined.snapshot - self._num_snapshots])

    def hold(self, plan: StepPlan) -> None:
        """Take the states of slots that have drafts, and give back those before drafts that were wrong."""
        for chunk in plan.chunks:
            held = self._first_held + chunk.slot
            if chunk.rewinds:
                self._copy(held, chunk.slot)
            elif chunk.checks:
                self._copy(chunk.slot, held)

    def keep(self, plan: StepPlan) -> None:
        """Take the snapshots that a plan asks for, after it has run. Groups have taken those of chunks that
        others continue."""
        for chunk, is_continued in zip(plan.chunks, _continued(plan), strict=True):
            if chunk.snapshot is not None and not is_continued:
                self._copy(chunk.slot, self._first_snapshot + chunk.snapshot)

    def _copy(self, source: int, target: int) -> None:
        for states in self._states.values():
            states[target] = states[source]

    def keep_one(self, name: StateName, slot: Tensor, snapshot: int) -> None:
        """Take a snapshot of one state of a slot."""
        states = self._states[name]
        states[self._first_snapshot + snapshot] = states[slot]

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


def _allocate_host(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return allocate_zeros(shape, dtype=dtype, device=device)
    return torch.empty(shape, dtype=dtype, pin_memory=True)


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
    snapshots: tuple[int | None, ...] = ()  # of each chunk, before others of the step continue it

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
        """Store the states, and take their snapshots."""
        self.pool.write(name, self.slots, states)
        self.keep(name)

    def places(self, name: StateName) -> Tensor:
        """Return the states of all slots, (slots, *dims), to be changed in place before `keep`."""
        return self.pool.view(name, slice(None))

    def keep(self, name: StateName) -> None:
        """Take the snapshots of states that have been changed."""
        for slot, snapshot in zip(self.slots, self.snapshots, strict=False):
            if snapshot is not None:
                self.pool.keep_one(name, slot, snapshot)

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
    device, continues, is_continued = batch.tokens.device, plan.continuations(), _continued(plan)

    def kind(at: int) -> tuple[bool, bool, int, bool]:
        chunk = plan.chunks[at]
        return continues[at], is_continued[at], len(chunk.tokens), chunk.start == 0

    for (_, has_snapshots, width, is_fresh), members in groupby(batch.order, key=kind):
        chunks = [plan.chunks[at] for at in members]
        slots = torch.tensor([chunk.slot for chunk in chunks])
        near = None if has_snapshots else _neighbours(slots, device)
        snapshots = tuple(chunk.snapshot for chunk in chunks) if has_snapshots else ()
        groups.append(StateGroup(pool, slots.to(device), start, width, is_fresh, near, snapshots))
        start = groups[-1].end
    return groups


def _continued(plan: StepPlan) -> list[bool]:
    """Return of each chunk whether another of the step continues it."""
    return [*plan.continuations()[1:], False][: len(plan.chunks)]


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
            part = slice(row, row + 1)
            yield replace(group, slots=group.slots[part], start=0, snapshots=group.snapshots[part])


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

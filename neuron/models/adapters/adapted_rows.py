"""Which rows of a step's flat batch an adapter is for: the seam between the runner and linear layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby

import torch
from torch import Tensor

from neuron.device import row_steps
from neuron.models.matrix import Groups

# Rows of a run, on average, from which on rows move by runs, without torch's threads: where others
# compute too, these wait for each other longer than all else takes. Prompts' rows stand together.
_LONG = 8


class AdaptedRows:
    """The rows with adapters, those of one adapter next to each other.

    `order` are their places in the flat batch of `count` rows, or None where that is all of it, in order.
    `groups` say which are of which adapter, of at most `capacity`.
    """

    def __init__(self, adapters: Sequence[int | None], capacity: int, device: torch.device) -> None:
        rows = sorted((number, row) for row, number in enumerate(adapters) if number is not None)
        places = [row for _, row in rows]
        self.count = len(adapters)
        self.groups = Groups(torch.tensor([number for number, _ in rows], device=device), capacity)
        is_whole = places == [*range(len(adapters))]
        self.order: Tensor | None = None if is_whole else torch.tensor(places, device=device)
        runs = [] if is_whole or device.type != "cpu" else list(_runs(places))
        self._runs = runs if len(runs) * _LONG <= len(places) else []

    def take(self, x: Tensor) -> Tensor:
        """Return the rows of `x`, (count, in), that have adapters, in their order."""
        if self.order is None:
            return x
        if not self._runs:
            return x.index_select(0, self.order)
        return torch.cat([x[place : place + count] for _, place, count in self._runs])

    def add(self, added: Tensor, out: Tensor) -> Tensor:
        """Return `out`, (count, out), after adding to its rows what their adapters make, in their order."""
        if self.order is None:
            return row_steps.add(added, out)
        if not self._runs:
            return out.index_add_(0, self.order, added)
        for first, place, count in self._runs:
            row_steps.add(added[first : first + count], out[place : place + count])
        return out


def _runs(places: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the index of each run of neighbouring places, its first place, and how many they are."""
    for _, run in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        (first, place), *rest = run
        yield first, place, 1 + len(rest)


_rows: ContextVar[AdaptedRows | None] = ContextVar("adapted_rows", default=None)


@contextmanager
def use_adapted_rows(rows: AdaptedRows) -> Iterator[None]:
    """Let `adapted_rows` return `rows` inside the block."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def adapted_rows() -> AdaptedRows | None:
    """Return the rows of the step that runs; None when none of them has an adapter."""
    return _rows.get()

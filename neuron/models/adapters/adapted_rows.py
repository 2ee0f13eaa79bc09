"""Which rows of a step's flat batch an adapter is for: the seam between the runner and linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from neuron.models.matrix import Groups


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

"""The content of pages that left the device, in rows of host memory: pinned beside a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuron.device.page_pool import allocate_zeros


class HostPool:
    """Rows for what pages hold in all layers. `pages` are the tensors of a cache, each (pages, …)."""

    def __init__(self, pages: Sequence[Tensor], num_rows: int) -> None:
        self._pages = [tensor.flatten(1).view(torch.uint8) for tensor in pages]
        self._rows = [_allocate(num_rows, tensor) for tensor in self._pages]

    @property
    def device_bytes(self) -> int:
        """Of its rows those in the memory of the device: all, if that is a CPU's."""
        return sum(rows.nbytes for rows in self._rows if self._pages[0].device.type == "cpu")

    def move(self, leaving: Sequence[tuple[int, int]], returning: Sequence[tuple[int, int]]) -> None:
        """Copy pages to rows, each (page, row), and then rows to pages, each (row, page)."""
        if leaving:
            _copy(self._pages, self._rows, leaving)
        if returning:
            _copy(self._rows, self._pages, returning)


def _allocate(num_rows: int, pages: Tensor) -> Tensor:
    shape = num_rows, pages.shape[1]
    if pages.device.type == "cpu":
        return allocate_zeros(shape, dtype=torch.uint8, device=pages.device)
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor], moves: Sequence[tuple[int, int]]) -> None:
    numbers, places = (torch.tensor(column) for column in zip(*moves, strict=True))
    for source, target in zip(sources, targets, strict=True):
        taken = source.index_select(0, numbers.to(source.device))
        target.index_copy_(0, places.to(target.device), taken.to(target.device))

"""Memory of what recorded steps compute on their way.

A tensor that is gone when a step is recorded leaves its memory to the next one, of the same step or of
another: steps run one after the other, each of them in the order of its recording.
"""

from __future__ import annotations

import weakref
from collections import defaultdict

import torch
from torch import Tensor

_LEAST = 64  # bytes


class RecordedMemory:
    """Blocks for tensors, which stay where they are as long as this does.

    Sizes are powers of two, so that batches of all sizes share blocks.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[Tensor]] = defaultdict(list)  # by size
        self._blocks: dict[int, Tensor] = {}  # by address

    @property
    def num_bytes(self) -> int:
        return sum(block.nbytes for block in self._blocks.values())

    def like(self, x: Tensor) -> Tensor:
        """Return a tensor of the same kind, whose block is free when no tensor refers to it any more."""
        size = max(_LEAST, 1 << (x.untyped_storage().nbytes() - 1).bit_length())
        free = self._free[size]
        block = free.pop() if free else self._new(size)
        view = block.numpy().data
        weakref.finalize(view, free.append, block).atexit = False
        return torch.frombuffer(view, dtype=x.dtype).as_strided(x.shape, x.stride())

    def lend(self, x: Tensor) -> Tensor:
        """Return a tensor with the same numbers that leaves the block as free as it is without it."""
        block = self._blocks.get(x.untyped_storage().data_ptr())
        if block is None:
            return x
        return block.view(x.dtype).as_strided(x.shape, x.stride(), x.storage_offset())

    def _new(self, size: int) -> Tensor:
        block = torch.empty(size, dtype=torch.uint8)
        self._blocks[block.data_ptr()] = block
        return block

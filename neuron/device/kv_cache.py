"""The tensors of a paged KV cache, and where on them each slot's tokens are.

Layer by layer two tensors of shape (num_pages + 1, page_size, kv_heads, head_dim): a page is one contiguous
piece, so gathering a sequence is copying whole pages. Which page is whose is the engine's business; here a
slot is a row of `PageTable`.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from neuron.step import CacheShape, StepPlan

Pages = torch.Tensor | slice  # numbers of pages one by one, or a run of them, which is read without a copy


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token costs in one layer."""

    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def values_per_token(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim)


def bytes_per_token(layers: Mapping[int, KVShape], dtype: torch.dtype) -> int:
    return sum(layer.values_per_token for layer in layers.values()) * dtype.itemsize


class KVCache:
    """Keys and values of every layer. Zeros at first; never anything but finite numbers. Has one page more
    than its shape says, which is nobody's; see `PageTable.spare_slot`."""

    def __init__(
        self, layers: Mapping[int, KVShape], shape: CacheShape, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        def pool(heads: int, dim: int) -> torch.Tensor:
            return zeros((shape.num_pages + 1, shape.page_size, heads, dim), dtype=dtype, device=device)

        self.shape = shape
        self.num_bytes = bytes_per_token(layers, dtype) * (shape.num_pages + 1) * shape.page_size
        self._keys = {index: pool(layer.kv_heads, layer.key_dim) for index, layer in layers.items()}
        self._values = {index: pool(layer.kv_heads, layer.value_dim) for index, layer in layers.items()}

    def write(self, layer: int, locations: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store `key` and `value`, each (tokens, kv_heads, dim), at `places` = page * page_size + offset."""
        self._keys[layer].flatten(0, 1).index_copy_(0, locations, key)
        self._values[layer].flatten(0, 1).index_copy_(0, locations, value)

    def pools(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all pages, each (num_pages + 1, page_size, kv_heads, dim)."""
        return self._keys[layer], self._values[layer]

    def read(self, layer: int, pages: Pages, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each (rows, kv_heads, tokens, dim), of `rows` equally long page lists."""
        keys, values = _select(self._keys[layer], pages), _select(self._values[layer], pages)
        tokens = len(keys) // rows * self.shape.page_size
        return (
            keys.view(rows, tokens, *keys.shape[2:]).transpose(1, 2),
            values.view(rows, tokens, *values.shape[2:]).transpose(1, 2),
        )


def _select(pool: torch.Tensor, pages: Pages) -> torch.Tensor:
    return pool[pages] if isinstance(pages, slice) else pool.index_select(0, pages)


def zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros. On the CPU they are a mapping of their own: memory is taken by the first write, and all of it
    given back when the tensor goes away."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(torch.Size(shape).numel()) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


class PageTable:
    """The pages of each slot, on the device: (num_slots + 1, pages_per_slot).

    Entries past a slot's own are stale but valid page numbers, so that gathering them is harmless. The last
    slot, `spare_slot`, has the cache's spare page: for rows of a batch that are nobody's.
    """

    def __init__(self, shape: CacheShape, device: torch.device) -> None:
        size = shape.num_slots + 1, shape.pages_per_slot
        self.pages = torch.zeros(size, dtype=torch.int64, device=device)
        self.padding_slot = shape.num_slots
        self.pages[self.padding_slot] = shape.num_pages
        self._lengths = [0] * shape.num_slots

    def update(self, plan: StepPlan) -> None:
        """Take in the pages of the slots that `plan` begins or extends."""
        for joined in plan.joined:
            self._lengths[joined.slot] = 0
            self._append(joined.slot, joined.pages)
        for chunk in plan.chunks:
            if chunk.new_pages:
                self._append(chunk.slot, chunk.new_pages)

    def _append(self, slot: int, pages: tuple[int, ...]) -> None:
        start = self._lengths[slot]
        self._lengths[slot] = end = start + len(pages)
        self.pages[slot, start:end] = torch.tensor(pages, dtype=torch.int64, device=self.pages.device)

"""The tensors of a paged KV cache, and the page table that says which pages hold each slot's tokens.

A layer has two tensors of shape (num_pages + 1, page_size, kv_heads, head_dim), or one where its values are
its keys. A page is contiguous, so a sequence is gathered by copying whole pages. The engine decides which
page is whose; here a slot is a row of `PageTable`.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neuron.step import CacheShape, StepPlan

Pages = Tensor | slice  # page numbers, or a range of them that is read without a copy


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token stores in one layer."""

    kv_heads: int
    key_dim: int
    value_dim: int
    values_are_keys: bool = False  # and stored once
    index_dim: int = 0  # of an index key, which an indexer of the layer scores; 0: it has none

    @property
    def values_per_token(self) -> int:
        value_dim = 0 if self.values_are_keys else self.value_dim
        return self.kv_heads * (self.key_dim + value_dim) + self.index_dim


def bytes_per_token(layers: Mapping[int, KVShape], dtype: torch.dtype) -> int:
    """Return the bytes that one token takes in all `layers`."""
    return sum(layer.values_per_token for layer in layers.values()) * dtype.itemsize


class KVCache:
    """Keys and values of every layer.

    They start as zeros and are always finite, so gathering pages that are masked later does no harm. There is
    one page more than `shape` says: the padding page, see `PageTable.padding_slot`.
    """

    def __init__(
        self, layers: Mapping[int, KVShape], shape: CacheShape, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        def pool(*dims: int) -> Tensor:
            return allocate_zeros((shape.num_pages + 1, shape.page_size, *dims), dtype=dtype, device=device)

        self.shape = shape
        self.num_bytes = bytes_per_token(layers, dtype) * (shape.num_pages + 1) * shape.page_size
        self._keys = {index: pool(layer.kv_heads, layer.key_dim) for index, layer in layers.items()}
        self._values = {
            index: self._keys[index] if layer.values_are_keys else pool(layer.kv_heads, layer.value_dim)
            for index, layer in layers.items()
        }
        self._index_keys = {
            index: pool(layer.index_dim) for index, layer in layers.items() if layer.index_dim
        }

    def write(self, layer: int, locations: Tensor, key: Tensor, value: Tensor) -> None:
        """Store `key` and `value`, each (tokens, kv_heads, dim). A location is page * page_size + offset."""
        keys, values = self.pools(layer)
        keys.flatten(0, 1).index_copy_(0, locations, key)
        if values is not keys:
            values.flatten(0, 1).index_copy_(0, locations, value)

    def pools(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of all pages, each (num_pages + 1, page_size, kv_heads, dim)."""
        return self._keys[layer], self._values[layer]

    def gather(self, layer: int, pages: Pages, rows: int) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (rows, kv_heads, tokens, dim), of `rows` page lists of one length."""
        keys, values = self.pools(layer)
        gathered = _gather(keys, pages, rows)
        return gathered, gathered if values is keys else _gather(values, pages, rows)

    def gather_tokens(self, layer: int, locations: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of single tokens, each (rows, kv_heads, k, dim).

        Locations are (rows, heads, k): of one head for all, or of each key head.
        """
        keys, values = self.pools(layer)
        gathered = _select_tokens(keys, locations)
        return gathered, gathered if values is keys else _select_tokens(values, locations)

    def write_index(self, layer: int, locations: Tensor, keys: Tensor, part: slice) -> None:
        """Store a part of the index keys, (tokens, dim), at the locations of `write`."""
        pool = self._index_keys[layer][..., part]
        pool.flatten(0, 1).index_copy_(0, locations, keys.to(pool.dtype))

    def gather_index(self, layer: int, pages: Pages, rows: int, part: slice) -> Tensor:
        """Return a part of the index keys, (rows, tokens, dim), of `rows` page lists of one length."""
        keys = _select(self._index_keys[layer][..., part], pages)
        return keys.reshape(rows, -1, keys.shape[-1])


def _select_tokens(pool: Tensor, locations: Tensor) -> Tensor:
    if locations.shape[1] == 1:
        return pool.flatten(0, 1)[locations[:, 0]].transpose(1, 2)
    heads = torch.arange(pool.shape[2], device=pool.device)[:, None]
    return pool.flatten(0, 1)[locations, heads]


def _gather(pool: Tensor, pages: Pages, rows: int) -> Tensor:
    return _select(pool, pages).view(rows, -1, *pool.shape[2:]).transpose(1, 2)


def _select(pool: Tensor, pages: Pages) -> Tensor:
    return pool[pages] if isinstance(pages, slice) else pool.index_select(0, pages)


def allocate_zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros. On a CPU they are a mapping of their own: the first write takes a page of memory, and all
    of it goes back to the system with the tensor."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(torch.Size(shape).numel()) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


class PageTable:
    """The pages of each slot, on the device: (num_slots + 1, pages_per_slot).

    Entries past a slot's own pages are stale but valid page numbers, so gathering them does no harm. The last
    row, `padding_slot`, holds the padding page only: rows that pad a batch write there.
    """

    def __init__(self, shape: CacheShape, device: torch.device) -> None:
        size = shape.num_slots + 1, shape.pages_per_slot
        self.pages = torch.zeros(size, dtype=torch.int64, device=device)
        self.padding_slot = shape.num_slots
        self.pages[self.padding_slot] = shape.num_pages
        self.prompts = [0] * shape.num_slots  # tokens of each slot's prompt
        self._lengths = [0] * shape.num_slots

    def update(self, plan: StepPlan) -> None:
        """Write the pages of slots that `plan` assigns or extends."""
        for joined in plan.joined:
            self._lengths[joined.slot] = 0
            self.prompts[joined.slot] = len(joined.prompt)
            self._append(joined.slot, joined.pages)
        for chunk in plan.chunks:
            if chunk.new_pages:
                self._append(chunk.slot, chunk.new_pages)

    def _append(self, slot: int, pages: tuple[int, ...]) -> None:
        start = self._lengths[slot]
        end = start + len(pages)
        self._lengths[slot] = end
        self.pages[slot, start:end] = torch.tensor(pages, dtype=torch.int64, device=self.pages.device)

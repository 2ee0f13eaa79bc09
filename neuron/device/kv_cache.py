"""The tensors of a paged KV cache, and the page table that says which pages hold each slot's tokens.

A layer has two pools of shape (num_pages + 1, page_size, kv_heads, head_dim), or one where its values are its
keys. A page is contiguous, so a sequence is gathered by copying whole pages. The engine decides which page is
whose; here a slot is a row of `PageTable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neuron.device.page_pool import (
    Coding,
    Pages,
    PlainPool,
    Pool,
    allocate_pool,
    allocate_zeros,
    select_pages,
)
from neuron.device.row_steps import STORED
from neuron.step import CacheShape, StepPlan


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token stores in one layer."""

    kv_heads: int
    key_dim: int
    value_dim: int
    values_are_keys: bool = False  # and stored once
    index_dim: int = 0  # of an index key, which an indexer of the layer scores; 0: it has none
    is_text: bool = False  # neither keys nor values, but the text itself

    @property
    def needs_exactness(self) -> str:
        """Why what it stores cannot be codes of eight bits; empty where it can."""
        if self.is_text:
            return "its pages hold the text itself"
        return "its pages hold latents" if self.values_are_keys else ""

    def num_bytes(self, dtype: torch.dtype, coding: Coding | None = None) -> int:
        """Return the bytes that one token takes."""
        dims = (self.key_dim,) if self.values_are_keys else (self.key_dim, self.value_dim)
        index = self.index_dim * dtype.itemsize
        if coding is None:
            return self.kv_heads * sum(dims) * dtype.itemsize + index
        return sum(coding.num_bytes(self.kv_heads, dim) for dim in dims) + index


def bytes_per_token(layers: Mapping[int, KVShape], dtype: torch.dtype, coding: Coding | None = None) -> int:
    """Return the bytes that one token takes in all `layers`."""
    return sum(layer.num_bytes(dtype, coding) for layer in layers.values())


class KVCache:
    """Keys and values of every layer.

    They start as zeros and are always finite, so gathering pages that are masked later does no harm. There is
    one page more than `shape` says: the padding page, see `PageTable.padding_slot`.
    """

    def __init__(
        self,
        layers: Mapping[int, KVShape],
        shape: CacheShape,
        *,
        dtype: torch.dtype,
        device: torch.device,
        coding: Coding | None = None,
    ) -> None:
        def pool(heads: int, dim: int) -> Pool:
            size = shape.num_pages + 1, shape.page_size, heads, dim
            return allocate_pool(size, coding, dtype=dtype, device=device)

        def index_keys(dim: int) -> Tensor:
            return allocate_zeros((shape.num_pages + 1, shape.page_size, dim), dtype=dtype, device=device)

        self.shape = shape
        self.dtype = dtype  # of what is gathered
        self.rounds = coding is None and device.type == "cpu"  # what is written, to `dtype`
        self.num_bytes = bytes_per_token(layers, dtype, coding) * (shape.num_pages + 1) * shape.page_size
        self._keys = {index: pool(layer.kv_heads, layer.key_dim) for index, layer in layers.items()}
        self._values = {
            index: self._keys[index] if layer.values_are_keys else pool(layer.kv_heads, layer.value_dim)
            for index, layer in layers.items()
        }
        self._index_keys = {
            index: index_keys(layer.index_dim) for index, layer in layers.items() if layer.index_dim
        }

    def write(self, layer: int, locations: Tensor, key: Tensor, value: Tensor) -> None:
        """Store `key` and `value`, each (tokens, kv_heads, dim). A location is page * page_size + offset."""
        keys, values = self._keys[layer], self._values[layer]
        keys.write(locations, key)
        if values is not keys:
            values.write(locations, value)

    def stores_plainly(self, layer: int) -> bool:
        """Return whether a layer's keys and values are stored as `row_steps` can write them."""
        pools = self._keys[layer], self._values[layer]
        return all(isinstance(pool, PlainPool) and pool.stored.dtype in STORED for pool in pools)

    @property
    def tensors(self) -> list[Tensor]:
        """All that pages hold, each (num_pages + 1, …), once."""
        pools = {id(pool): pool for pool in (*self._keys.values(), *self._values.values())}.values()
        scales = [pool.scales for pool in pools if not isinstance(pool, PlainPool)]
        return [*(pool.stored for pool in pools), *scales, *self._index_keys.values()]

    def kv_heads(self, layer: int) -> int:
        return self._keys[layer].heads

    def pools(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values, or their codes, each (num_pages + 1, page_size, kv_heads, dim)."""
        return self._keys[layer].stored, self._values[layer].stored

    def scales(self, layer: int) -> dict[str, Tensor]:
        """Return `key_scales` and `value_scales` of codes, each (num_pages + 1, page_size, kv_heads, 1)."""
        keys, values = self._keys[layer], self._values[layer]
        if isinstance(keys, PlainPool) or isinstance(values, PlainPool):
            return {}
        return {"key_scales": keys.scales, "value_scales": values.scales}

    def gather(self, layer: int, pages: Pages, rows: int) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (rows, kv_heads, tokens, dim), of `rows` page lists of one length."""
        keys, values = self._keys[layer], self._values[layer]
        gathered = keys.gather(pages, rows)
        return gathered, gathered if values is keys else values.gather(pages, rows)

    def gather_tokens(self, layer: int, locations: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of single tokens, each (rows, kv_heads, k, dim).

        Locations are (rows, heads, k): of one head for all, or of each key head.
        """
        keys, values = self._keys[layer], self._values[layer]
        gathered = keys.gather_tokens(locations)
        return gathered, gathered if values is keys else values.gather_tokens(locations)

    def write_index(self, layer: int, locations: Tensor, keys: Tensor, part: slice) -> None:
        """Store a part of the index keys, (tokens, dim), at the locations of `write`."""
        pool = self._index_keys[layer][..., part]
        pool.flatten(0, 1).index_copy_(0, locations, keys.to(pool.dtype))

    def gather_index(self, layer: int, pages: Pages, rows: int, part: slice) -> Tensor:
        """Return a part of the index keys, (rows, tokens, dim), of `rows` page lists of one length."""
        keys = select_pages(self._index_keys[layer][..., part], pages)
        return keys.reshape(rows, -1, keys.shape[-1])


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

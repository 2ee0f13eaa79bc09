"""Sparse attention: an indexer chooses the positions that each query attends to.

An indexer keeps a small key of each token, its *index key*, next to the layer's keys and values in the pages.
It runs for each group of a step's chunks, over the index keys of the whole sequences, and its choice goes
with the queries to the layer's attention: DeepSeek-V3.2 (arXiv:2512.02556) calls this DSA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from neuron.device.batch import AttentionGroup, Batch
from neuron.device.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Selection:
    """The positions that the queries of a step attend to, of those that they see.

    There is a part for each of the batch's groups: (rows, heads, width, k), where no position comes twice and
    -1 selects nothing. Heads are 1, or as many as select for themselves.
    """

    parts: tuple[Tensor, ...]

    def is_worth_gathering(self, part: int, group: AttentionGroup, kv_heads: int) -> bool:
        """Return whether a group's queries, one a row, attend to few of their sequences' tokens."""
        _, heads, width, count = self.parts[part].shape
        return width == 1 and heads in {1, kv_heads} and 2 * count <= max(group.lengths)

    def restrict(self, mask: Tensor, part: int) -> Tensor:
        """Return the mask of a group, (rows, 1, width, tokens), that hides all else: (rows, heads, …)."""
        positions = self.parts[part]
        tokens = mask.shape[-1]
        hidden = torch.ones((*positions.shape[:-1], tokens + 1), dtype=torch.bool, device=mask.device)
        hidden.scatter_(-1, positions.where(positions >= 0, tokens), value=False)
        return mask.masked_fill(hidden[..., :tokens], float("-inf"))

    def __rand__(self, _: Tensor) -> Selection:
        """Return the selection: its `mask & selection` is how some layers combine it with their own mask."""
        return self


@dataclass(frozen=True, slots=True)
class Compressed:
    """Keys that stand for several tokens each, and are values too: a step's queries attend to them as well.

    There is a part for each of the batch's groups: the keys, (rows, 1, entries, dim), and a mask,
    (rows, 1, width, entries).
    """

    parts: tuple[tuple[Tensor, Tensor], ...]


class IndexGroup:
    """The index keys of some rows of a group: rows `start:end` of the flat batch, `width` tokens each."""

    def __init__(self, cache: KVCache, group: AttentionGroup, locations: Tensor, rows: range) -> None:
        self.rows, self.width = len(rows), group.width
        self.start = group.start + rows.start * group.width
        self.end = group.start + rows.stop * group.width
        self.length = max(group.lengths[row] for row in rows)  # of the longest sequence
        self._cache = cache
        self._group = group
        self._locations = locations
        self._part = rows

    @property
    def device(self) -> torch.device:
        return self._locations.device

    def one_by_one(self) -> list[IndexGroup]:
        """Return a group for each row."""
        each = (range(row, row + 1) for row in self._part)
        return [IndexGroup(self._cache, self._group, self._locations, rows) for rows in each]

    def update(self, layer: int, keys: Tensor, start: int = 0) -> Tensor:
        """Store index keys, (rows, width, dim), and return those of the sequences, (rows, length, dim).

        They are the part of the layer's index keys that begins at `start`.
        """
        pages, _ = self._group.pages_and_mask(None, None, keys.dtype)
        if isinstance(pages, Tensor):
            pages = pages.view(self._group.rows, -1)[self._part.start : self._part.stop].flatten()
        part = slice(start, start + keys.shape[-1])
        self._cache.write_index(layer, self._locations[self.start : self.end], keys.flatten(0, 1), part)
        return self._cache.gather_index(layer, pages, self.rows, part)[:, : self.length].to(keys.dtype)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Return what is added to the queries' scores of these keys, (rows, 1, width, length)."""
        _, mask = self._group.pages_and_mask(None, None, dtype)
        return mask[self._part.start : self._part.stop, ..., : self.length]


_index: ContextVar[Sequence[IndexGroup] | None] = ContextVar("index_groups", default=None)


@contextmanager
def use_index_keys(cache: KVCache, batch: Batch) -> Iterator[None]:
    """Let `index_groups` return those of a batch inside the block."""
    groups = [IndexGroup(cache, group, batch.locations, range(group.rows)) for group in batch.groups]
    token = _index.set(groups)
    try:
        yield
    finally:
        _index.reset(token)


def index_groups() -> Sequence[IndexGroup] | None:
    """Return the groups of the step that runs; None outside one, when a model is probed."""
    return _index.get()

"""Attention over the paged cache, for whatever model calls it.

A model's layers call `attend` with the queries, keys and values of the step's flat row of tokens; what
happens to them is up to the `Attention` that the device thread made active for this forward. Torch
operations only, so it runs on every device torch knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from neuron.device.batch import AttentionGroup, Batch
from neuron.device.kv_cache import KVCache

_MAX_SCORES = 1 << 24  # scores held at once where they are made explicitly: 64 MiB of float32


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """How one layer attends."""

    scale: float
    window: int | None = None  # positions seen, the query's own included; None: all
    softcap: float | None = None
    sinks: torch.Tensor | None = None  # (heads,): a score for seeing nothing

    @property
    def is_plain(self) -> bool:
        return self.softcap is None and self.sinks is None


class AttentionBackend(Protocol):
    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        params: AttentionParams,
    ) -> torch.Tensor:
        """Query (tokens, heads, dim), key and value (tokens, kv_heads, dim) to (tokens, heads, dim)."""


_active: ContextVar[AttentionBackend] = ContextVar("attention")


@contextmanager
def use_backend(attention: AttentionBackend) -> Iterator[None]:
    """Have `attend` mean `attention` inside the block."""
    token = _active.set(attention)
    try:
        yield
    finally:
        _active.reset(token)


def attend(
    layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, params: AttentionParams
) -> torch.Tensor:
    return _active.get()(layer, query, key, value, params=params)


class SdpaAttention:
    """Writes a step's keys and values to the cache and attends over all that the cache holds."""

    def __init__(self, cache: KVCache, batch: Batch) -> None:
        self._cache = cache
        self._batch = batch

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        params: AttentionParams,
    ) -> torch.Tensor:
        self._cache.write(layer, self._batch.locations, key, value)
        parts = [self._group(group, layer, query, params) for group in self._batch.groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _group(
        self, group: AttentionGroup, layer: int, flat: torch.Tensor, params: AttentionParams
    ) -> torch.Tensor:
        pages, mask = group.pages_and_mask(params.window, flat.dtype)
        keys, values = self._cache.read(layer, pages, group.rows)
        query = flat[group.start : group.end].view(group.rows, group.width, *flat.shape[1:]).transpose(1, 2)
        kernel = _fused if params.is_plain else _explicit
        return kernel(query, keys, values, mask, params).transpose(1, 2).flatten(0, 1)


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, params: AttentionParams
) -> torch.Tensor:
    """All tensors (rows, heads, tokens, dim), with fewer heads for key and value where they are shared."""
    rows, heads, width, dim = query.shape
    if width > 1:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=params.scale, enable_gqa=heads != key.shape[1]
        )
    # One token per row: the query heads of a key head take the place of tokens (7 times as fast on CPU).
    packed = query.reshape(rows, key.shape[1], -1, dim)
    out = scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=params.scale)
    return out.reshape(rows, heads, 1, -1)


def _explicit(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, params: AttentionParams
) -> torch.Tensor:
    """The same with a soft cap or sinks, in slices of queries that keep the scores small."""
    rows, heads, width, _ = query.shape
    step = max(1, _MAX_SCORES // (rows * heads * key.shape[2]))
    slices = [slice(start, start + step) for start in range(0, width, step)]
    return torch.cat([_scores(query[:, :, s], key, value, mask[:, :, s], params) for s in slices], dim=2)


def _scores(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, params: AttentionParams
) -> torch.Tensor:
    rows, heads, width, dim = query.shape
    packed = query.reshape(rows, key.shape[1], -1, dim)
    scores = (packed @ key.transpose(2, 3)).float().view(rows, heads, width, -1) * params.scale
    if params.softcap is not None:
        scores = torch.tanh(scores / params.softcap) * params.softcap
    scores = scores + mask.float()
    if params.sinks is not None:
        sinks = params.sinks.float().view(1, heads, 1, 1).expand(rows, heads, width, 1)
        scores = torch.cat([scores, sinks], dim=3)
    weights = scores.softmax(dim=3)[..., : key.shape[2]].to(value.dtype)
    return (weights.view(rows, key.shape[1], -1, key.shape[2]) @ value).reshape(rows, heads, width, -1)

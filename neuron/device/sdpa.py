"""Attention that gathers pages and calls torch's `scaled_dot_product_attention`: runs on every device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from neuron.device.attention import AttentionParams
from neuron.device.attention_step import attend_in_place, attends_in_place
from neuron.device.batch import Batch
from neuron.device.kv_cache import KVCache

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, AttentionParams], Tensor]

_FEW = 16  # tokens of a row
_MAX_SCORES = 1 << 24  # held at once by `_eager`: 64 MiB of float32


class SdpaAttention:
    """The `AttentionBackend` that writes a step's keys and values to the cache and gathers what it holds."""

    def __init__(self, cache: KVCache, batch: Batch) -> None:
        self._cache = cache
        self._batch = batch

    @property
    def takes_floats(self) -> bool:
        return self._cache.rounds

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, params: AttentionParams
    ) -> Tensor:
        self._cache.write(layer, self._batch.locations, key, value)
        made: list[Tensor] = []
        for is_in_place, parts in groupby(
            range(len(self._batch.groups)), lambda part: self._is_in_place(part, layer, query, params)
        ):
            if is_in_place:
                made.append(self._in_place(list(parts), layer, query, params))
            else:
                made += [self._gathered(part, layer, query, params) for part in parts]
        return made[0] if len(made) == 1 else torch.cat(made)

    def _is_in_place(self, part: int, layer: int, flat: Tensor, params: AttentionParams) -> bool:
        group, pools = self._batch.groups[part], self._cache.pools(layer)
        is_text = not (params.images and group.shows_images)
        return is_text and attends_in_place(flat.shape[1], *pools, params, width=group.width)

    def _in_place(self, parts: list[int], layer: int, flat: Tensor, params: AttentionParams) -> Tensor:
        """Return the attention of groups that follow each other."""
        groups, pools = [self._batch.groups[part] for part in parts], self._cache.pools(layer)
        first = groups[0].start
        query = flat[first : groups[-1].end]
        out = query.new_empty(*query.shape[:2], pools[1].shape[3], dtype=torch.float32)
        for group in groups:
            rows = slice(group.start - first, group.end - first)
            attend_in_place(query[rows], *pools, group.pages, group.ends, params, out[rows])
        return out.to(query.dtype)

    def _gathered(self, part: int, layer: int, flat: Tensor, params: AttentionParams) -> Tensor:
        group, flat = self._batch.groups[part], flat.to(self._cache.dtype)
        keys, values, mask = self._gather(part, layer, flat.dtype, params)
        if params.compressed:
            entries, hidden = params.compressed.parts[part]
            keys, values = torch.cat([keys, entries], dim=2), torch.cat([values, entries], dim=2)
            mask = torch.cat([mask, hidden], dim=3)

        def attend_by(kernel: Kernel, query: Tensor) -> Tensor:
            query = query.view(group.rows, group.width, *query.shape[1:]).transpose(1, 2)
            return kernel(query, keys, values, mask, params).transpose(1, 2).flatten(0, 1)

        query, latent = flat[group.start : group.end], params.latent
        kernel = _sdpa if params.is_softmax else _eager
        if latent is None:
            return attend_by(kernel, query)
        if params.is_softmax and latent.is_worth_expanding(group.width):
            return attend_by(_expanding, query)
        return latent.project(attend_by(kernel, latent.absorb(query)))

    def _gather(
        self, part: int, layer: int, dtype: torch.dtype, params: AttentionParams
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the queries of a group attend to: keys, values and mask."""
        group, selection = self._batch.groups[part], params.selection
        kv_heads = self._cache.kv_heads(layer)
        if selection and selection.is_worth_gathering(part, group, kv_heads):
            locations, mask = group.locate(selection.parts[part][:, :, 0], dtype)
            return *self._cache.gather_tokens(layer, locations), mask
        rule = params.window, params.chunk, dtype, params.prompt, params.images
        pages, mask = group.pages_and_mask(*rule)
        if selection:
            mask = selection.restrict(mask, part)
        return *self._cache.gather(layer, pages, group.rows), mask


# Below all tensors are (rows, heads, tokens, dim); key and value may have fewer heads (grouped-query
# attention), and the mask as many as select for themselves.


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, params: AttentionParams) -> Tensor:
    rows, heads, width, dim = query.shape
    if width > 1 and mask.shape[1] == key.shape[1] > 1:
        # Each key head selects: its query heads attend like a row of their own, and the mask is not repeated.
        query = query.reshape(-1, heads // key.shape[1], width, dim)
        key, value, mask = (tensor.flatten(0, 1).unsqueeze(1) for tensor in (key, value, mask))
        return _sdpa(query, key, value, mask, params).reshape(rows, heads, width, -1)
    if width > _FEW or mask.shape[1] not in {1, key.shape[1]}:
        is_grouped = heads != key.shape[1]
        mask = _of_heads(mask, heads)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=params.scale, enable_gqa=is_grouped
        )
    # The query heads of a key head take the place of tokens: on a CPU one token is 7 times as fast, a few
    # are a tenth faster.
    packed = query.reshape(rows, key.shape[1], -1, dim)
    if width > 1:
        mask = mask.repeat(1, 1, heads // key.shape[1], 1)
    out = scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=params.scale)
    return out.reshape(rows, heads, width, -1)


def _expanding(query: Tensor, key: Tensor, _: Tensor, mask: Tensor, params: AttentionParams) -> Tensor:
    """Make keys and values of latents first, over slices of heads that bound what is held at once."""
    latent = params.latent
    assert latent
    parts = []
    for heads in latent.head_slices(key.shape[0] * key.shape[2]):
        keys, values = latent.expand(key, heads)
        parts.append(_sdpa(query[:, heads], keys, values, mask, params)[..., : latent.value_dim])
    return torch.cat(parts, dim=1)


def _eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, params: AttentionParams) -> Tensor:
    """The same with a soft cap or sinks, over slices of queries that bound the scores held at once."""
    rows, heads, width, _ = query.shape
    step = max(1, _MAX_SCORES // (rows * heads * key.shape[2]))
    slices = [slice(start, start + step) for start in range(0, width, step)]
    return torch.cat([_eager_slice(query[:, :, s], key, value, mask[:, :, s], params) for s in slices], dim=2)


def _eager_slice(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, params: AttentionParams) -> Tensor:
    rows, heads, width, dim = query.shape
    packed = query.reshape(rows, key.shape[1], -1, dim)
    scores = (packed @ key.transpose(2, 3)).float().view(rows, heads, width, -1) * params.scale
    if params.softcap is not None:
        scores = torch.tanh(scores / params.softcap) * params.softcap
    scores = scores + _of_heads(mask, heads).float()
    if params.sinks is not None:
        sinks = params.sinks.float().view(1, heads, 1, 1).expand(rows, heads, width, 1)
        scores = torch.cat([scores, sinks], dim=3)
    weights = scores.softmax(dim=3)[..., : key.shape[2]].to(value.dtype)
    return (weights.view(rows, key.shape[1], -1, key.shape[2]) @ value).reshape(rows, heads, width, -1)


def _of_heads(mask: Tensor, heads: int) -> Tensor:
    """Return a mask of some heads for `heads` query heads, unless it is one for all."""
    return mask if mask.shape[1] == 1 else mask.repeat_interleave(heads // mask.shape[1], dim=1)

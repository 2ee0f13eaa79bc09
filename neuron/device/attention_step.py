"""Attention of the last tokens of sequences on a CPU by `ext.matmul`, which reads pages where they are.

torch's `scaled_dot_product_attention` wakes threads of its own for every layer and needs the pages gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ext import matmul
from neuron.device.attention import AttentionParams
from neuron.device.kv_cache import KVShape
from neuron.device.row_steps import address, bits, runs_in_c

_native: Any = matmul.load()
_STORED = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_DIM_MULTIPLE = 16  # the most lanes of a vector
_MAX_GROUP = 256  # query heads of a key head
_MAX_DIM = 256  # of a head, where a sequence has several tokens


def attends_in_place(
    heads: int, keys: Tensor, values: Tensor, params: AttentionParams, *, width: int = 1
) -> bool:
    """Return whether `attend_in_place` computes what `params` say for so many heads with these pools.

    `width` is how many tokens each sequence has.
    """
    is_stored = keys.dtype in _STORED and keys.dtype is values.dtype and keys.device.type == "cpu"
    dims = keys.shape[3], values.shape[3]
    is_known = is_stored and (width == 1 or max(dims) <= _MAX_DIM)
    return is_known and _steps(heads, keys.shape[2], dims, params)


def steps_in_place(heads: int, shape: KVShape, params: AttentionParams) -> bool:
    """Return whether it does with pools of plain numbers on a CPU."""
    return _steps(heads, shape.kv_heads, (shape.key_dim, shape.value_dim), params)


def _steps(heads: int, kv_heads: int, dims: Sequence[int], params: AttentionParams) -> bool:
    sinks = params.sinks
    sees_sinks = sinks is None or (runs_in_c(sinks) and sinks.is_contiguous())
    is_known = _native is not None and not params.latent and params.is_plain_but_for_sinks and sees_sinks
    return is_known and heads <= _MAX_GROUP * kv_heads and not any(dim % _DIM_MULTIPLE for dim in dims)


def attend_in_place(  # noqa: PLR0913
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    ends: Tensor,
    params: AttentionParams,
    out: Tensor | None = None,
) -> Tensor:
    """Return the attention of (tokens, heads, dim), the last tokens of sequences, (tokens, heads, value_dim).

    It is float32, and in `out` if given. Each sequence has as many tokens. Keys and values are pools,
    (num_pages, page_size, kv_heads, dim). A sequence's tokens up to its end, the new ones included, are in
    its row of `pages`, (rows, pages); ends and pages are int64.
    """
    tokens, heads, key_dim = query.shape
    rows = len(ends)
    queries = query.float()
    if queries.stride()[1:] != (key_dim, 1):
        queries = queries.contiguous()
    _, page_size, kv_heads, value_dim = values.shape
    out = queries.new_empty(tokens, heads, value_dim) if out is None else out
    _native.attend(
        *(matmul.instruction_set(), _STORED[keys.dtype], rows, tokens // rows, heads, kv_heads),
        *(key_dim, value_dim),
        *(queries.data_ptr(), queries.stride(0), keys.data_ptr(), values.data_ptr(), page_size),
        *(pages.data_ptr(), pages.shape[1], ends.data_ptr(), params.window or 0, bits(params.scale)),
        *(address(params.sinks), out.data_ptr(), torch.get_num_threads()),
    )
    return out

"""Attention over pages of codes on CUDA, which torch's kernel for paged caches does not know."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from neuron.device.cuda.paged_kernel import paged_kernel

_NO_WINDOW = 1 << 30
_BLOCK_TOKENS = 32
_SPLIT_TOKENS = 512  # of a decoding sequence that one program reads
_MAX_SPLITS = 16


def coded_varlen(  # noqa: PLR0913
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    cu_seq_q: Tensor,
    _: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor,
    key_scales: Tensor,
    value_scales: Tensor,
) -> Tensor:
    """Do what `torch.nn.attention.varlen.varlen_attn` does, for codes with a scale for each head of a token.

    Nothing waits for the device, so that CUDA graphs capture it.
    """
    tokens, heads, key_dim = query.shape
    kv_heads, value_dim = values.shape[2:]
    group = heads // kv_heads
    rows = max(16, triton.next_power_of_2(group)) if max_q == 1 else 64
    splits = min(_MAX_SPLITS, triton.next_power_of_2(triton.cdiv(max_k, _SPLIT_TOKENS))) if max_q == 1 else 1
    sums = query.new_empty(splits, tokens, heads, value_dim, dtype=torch.float32)
    weights, peaks = sums.new_empty(2, splits, tokens, heads).unbind()
    paged_kernel[len(seqused_k) * splits, triton.cdiv(max_q * group, rows), kv_heads](
        query.contiguous(),
        keys.view(torch.uint8),  # not all devices know 8-bit floats
        values.view(torch.uint8),
        key_scales,
        value_scales,
        cu_seq_q,
        seqused_k,
        block_table.contiguous(),
        sums,
        weights,
        peaks,
        tokens,
        block_table.shape[1],
        scale,
        _NO_WINDOW if window_size[0] < 0 else window_size[0],
        HEADS=heads,
        KV_HEADS=kv_heads,
        KEY_DIM=key_dim,
        VALUE_DIM=value_dim,
        PAGE=keys.shape[1],
        IS_FLOAT=keys.dtype.is_floating_point,
        BLOCK_KEY=max(16, triton.next_power_of_2(key_dim)),
        BLOCK_VALUE=max(16, triton.next_power_of_2(value_dim)),
        BLOCK_ROWS=rows,
        BLOCK_TOKENS=_BLOCK_TOKENS,
        SPLITS=splits,
    )
    shares = (peaks - peaks.amax(0)).exp()
    out = (sums * shares[..., None]).sum(0) / (weights * shares).sum(0)[..., None]
    return out.to(query.dtype)

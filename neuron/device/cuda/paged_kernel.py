"""The Triton kernel of attention over pages of codes, decoded in registers."""

from __future__ import annotations

import triton
import triton.language as tl

from neuron.device.cuda.small_float import small_float


@triton.jit
def _decoded(codes, like, IS_FLOAT: tl.constexpr):
    values = small_float(codes, 4, 3) if IS_FLOAT else codes.to(tl.int8, bitcast=True).to(tl.float32)
    return values.to(like.dtype)


@triton.jit(do_not_specialize=["window"])
def paged_kernel(
    query,  # (tokens, HEADS, KEY_DIM)
    keys,  # (pages, PAGE, KV_HEADS, KEY_DIM)
    values,  # (pages, PAGE, KV_HEADS, VALUE_DIM)
    key_scales,  # (pages, PAGE, KV_HEADS)
    value_scales,
    starts,  # (sequences + 1,): where each one's queries begin
    lengths,  # (sequences,): cached tokens of each
    table,  # (sequences, pages_per_sequence)
    sums,  # (SPLITS, tokens, HEADS, VALUE_DIM): of values, weighted
    weights,  # (SPLITS, tokens, HEADS): the weights' sum
    peaks,  # (SPLITS, tokens, HEADS): the score that has the weight 1
    num_tokens,
    pages_per_sequence,
    scale,
    window,  # positions before its own that a query sees
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    IS_FLOAT: tl.constexpr,  # codes are floats, not integers
    BLOCK_KEY: tl.constexpr,  # powers of two that are no less than the dimensions
    BLOCK_VALUE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Attend by some queries' heads of one key head to one of `SPLITS` parts of what they see.

    The softmax goes on with each block of tokens (Milakov and Gimelshein 2018).
    """
    sequence, split = tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    kv_head = tl.program_id(2)
    group: tl.constexpr = HEADS // KV_HEADS
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    length = tl.load(lengths + sequence)
    first = start + tl.program_id(1) * BLOCK_ROWS // group
    if first < end:
        row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        token, head = start + row // group, kv_head * group + row % group
        is_row = token < end
        position = length - end + token
        in_key, in_value = tl.arange(0, BLOCK_KEY), tl.arange(0, BLOCK_VALUE)
        mine = token.to(tl.int64) * HEADS + head
        is_query = is_row[:, None] & (in_key < KEY_DIM)[None, :]
        queries = tl.load(query + mine[:, None] * KEY_DIM + in_key[None, :], mask=is_query, other=0)
        seen = tl.minimum(length, length - end + first + (BLOCK_ROWS + group - 1) // group + 1)
        unseen = tl.maximum(0, length - end + first - window)
        step = tl.cdiv(tl.cdiv(seen - unseen, SPLITS), BLOCK_TOKENS) * BLOCK_TOKENS
        peak = tl.full((BLOCK_ROWS,), -1e30, tl.float32)
        weight = tl.zeros((BLOCK_ROWS,), tl.float32)
        total = tl.zeros((BLOCK_ROWS, BLOCK_VALUE), tl.float32)
        part = unseen + split * step
        for begin in range(part, tl.minimum(seen, part + step), BLOCK_TOKENS):
            place = begin + tl.arange(0, BLOCK_TOKENS)
            is_place = place < seen
            page = tl.load(table + sequence * pages_per_sequence + place // PAGE, mask=is_place, other=0)
            slot = (page.to(tl.int64) * PAGE + place % PAGE) * KV_HEADS + kv_head
            is_key = is_place[:, None] & (in_key < KEY_DIM)[None, :]
            codes = tl.load(keys + slot[:, None] * KEY_DIM + in_key[None, :], mask=is_key, other=0)
            key_codes = _decoded(codes, queries, IS_FLOAT)
            by = tl.load(key_scales + slot, mask=is_place, other=0).to(tl.float32) * scale
            scores = tl.dot(queries, tl.trans(key_codes), input_precision="ieee")
            is_seen = (place[None, :] <= position[:, None]) & (place[None, :] >= position[:, None] - window)
            scores = tl.where(is_seen & is_place[None, :], scores * by[None, :], -1e30)
            higher = tl.maximum(peak, tl.max(scores, 1))
            shares = tl.where(scores > -1e29, tl.exp(scores - higher[:, None]), 0.0)
            kept = tl.exp(peak - higher)
            peak, weight = higher, weight * kept + tl.sum(shares, 1)
            by = tl.load(value_scales + slot, mask=is_place, other=0).to(tl.float32)
            is_value = is_place[:, None] & (in_value < VALUE_DIM)[None, :]
            codes = tl.load(values + slot[:, None] * VALUE_DIM + in_value[None, :], mask=is_value, other=0)
            value_codes = _decoded(codes, queries, IS_FLOAT)
            shares = (shares * by[None, :]).to(queries.dtype)
            total = total * kept[:, None] + tl.dot(shares, value_codes, input_precision="ieee")
        mine += tl.cast(split, tl.int64) * num_tokens * HEADS
        tl.store(weights + mine, weight, mask=is_row)
        tl.store(peaks + mine, peak, mask=is_row)
        is_sum = is_row[:, None] & (in_value < VALUE_DIM)[None, :]
        tl.store(sums + mine[:, None] * VALUE_DIM + in_value[None, :], total, mask=is_sum)

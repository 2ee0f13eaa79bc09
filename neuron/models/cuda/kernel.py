"""The Triton kernel of products with stored matrices: one for all formats, which its `unpack` tells apart."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])
def product_kernel(
    x,  # (rows, columns)
    blocks,
    scales,  # this and the next two are None where a format has no such thing
    zeros,
    table,
    bias,  # (experts, outputs) or None
    sums,  # (SPLITS, rows, outputs)
    ends,  # (experts,): the end of each expert's rows; None for one matrix
    num_rows,
    outputs,
    columns,
    group,  # columns that share a scale, where scales are stored apart
    num_experts,
    unpack: tl.constexpr,
    UNIT_BYTES: tl.constexpr,
    PARTS: tl.constexpr,
    EXPERTS: tl.constexpr,  # a power of two that is no less than `num_experts`
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Multiply a tile of rows by some outputs' weights, over every `SPLITS`th block of units.

    A tile has the rows of one expert only. A single row is multiplied and summed, more are by tensor cores.
    """
    if ends is None:
        expert = 0
        first = tl.program_id(0) * BLOCK_ROWS
        last = num_rows
    else:
        number = tl.arange(0, EXPERTS)
        end = tl.load(ends + number, mask=number < num_experts, other=num_rows)
        start = tl.load(ends + number - 1, mask=(number > 0) & (number < num_experts), other=0)
        start = tl.where(number < num_experts, start, num_rows)
        tiles = tl.cumsum((end - start + BLOCK_ROWS - 1) // BLOCK_ROWS, 0)
        expert = tl.sum((tiles <= tl.program_id(0)).to(tl.int32), 0)
        is_mine = number == expert
        before = tl.max(tl.where(tiles <= tl.program_id(0), tiles, 0), 0)
        last = tl.sum(tl.where(is_mine, end, 0), 0)
        first = tl.sum(tl.where(is_mine, start, 0), 0) + (tl.program_id(0) - before) * BLOCK_ROWS
    if first < last:
        output = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
        matrix_row = tl.cast(expert, tl.int64) * outputs + tl.minimum(output, outputs - 1)
        num_units = columns // (UNIT_BYTES * PARTS)
        byte = tl.arange(0, UNIT_BYTES)[None, None, :]
        row = first + tl.arange(0, BLOCK_ROWS)
        x_rows = x + row.to(tl.int64)[:, None, None] * columns
        width: tl.constexpr = BLOCK_UNITS * UNIT_BYTES
        if BLOCK_ROWS == 1:
            total = tl.zeros((BLOCK_OUTPUTS, BLOCK_UNITS, UNIT_BYTES), tl.float32)
        else:
            total = tl.zeros((BLOCK_ROWS, BLOCK_OUTPUTS), tl.float32)
        for step in range(tl.cdiv(num_units, BLOCK_UNITS * SPLITS)):
            unit = (step * SPLITS + tl.program_id(2)) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)
            unit = unit[None, :]
            is_there = unit < num_units
            for part in tl.static_range(PARTS):
                weights, column = unpack(
                    blocks,
                    scales,
                    zeros,
                    table,
                    matrix_row[:, None],
                    tl.minimum(unit, num_units - 1),
                    byte,
                    columns,
                    group,
                    part,
                )
                mask = is_there[:, :, None] & (row < last)[:, None, None]
                values = tl.load(x_rows + column, mask=mask, other=0)
                if BLOCK_ROWS == 1:
                    total += weights * values
                else:
                    values = tl.reshape(values, (BLOCK_ROWS, width))
                    weights = tl.reshape(weights.to(values.dtype), (BLOCK_OUTPUTS, width))
                    total = tl.dot(values, tl.trans(weights), total, input_precision="ieee")
        if BLOCK_ROWS == 1:
            total = tl.sum(tl.sum(total, 2), 1)[None, :]
        if bias is not None:
            added = tl.load(bias + expert * outputs + output, mask=output < outputs, other=0)
            total += tl.where(tl.program_id(2) == 0, added.to(tl.float32), 0.0)[None, :]
        place = (tl.program_id(2) * num_rows + row).to(tl.int64)[:, None] * outputs + output[None, :]
        is_there = (row < last)[:, None] & (output < outputs)[None, :]
        tl.store(sums + place, total.to(sums.dtype.element_ty), mask=is_there)

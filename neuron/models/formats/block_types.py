"""The table of block types: GGUF's types of tensors that can be decoded, each with its decoder."""

from __future__ import annotations

import torch

from neuron.models.formats import microscaled_blocks, small_blocks, super_blocks
from neuron.models.formats.block_type import BlockType, Decode
from neuron.models.formats.small_blocks import IQ4_VALUES, plain
from neuron.models.formats.tensor_types import TENSOR_TYPES


def _row(number: int, decode: Decode, table: tuple[int, ...] | None = None) -> BlockType:
    """Return the block type that has this number in GGUF files."""
    stored = TENSOR_TYPES[number]
    return BlockType(stored.name.lower(), number, stored.num_values, stored.num_bytes, decode, table)


_ROWS = (
    _row(0, plain(torch.float32)),
    _row(1, plain(torch.float16)),
    _row(2, small_blocks.q4_0),
    _row(3, small_blocks.q4_1),
    _row(6, small_blocks.q5_0),
    _row(7, small_blocks.q5_1),
    _row(8, small_blocks.q8_0),
    _row(10, super_blocks.q2_k),
    _row(11, super_blocks.q3_k),
    _row(12, super_blocks.q4_k),
    _row(13, super_blocks.q5_k),
    _row(14, super_blocks.q6_k),
    _row(20, small_blocks.iq4_nl, IQ4_VALUES),
    _row(23, super_blocks.iq4_xs, IQ4_VALUES),
    _row(30, plain(torch.bfloat16)),
    _row(34, super_blocks.tq1_0),
    _row(35, super_blocks.tq2_0),
    _row(39, microscaled_blocks.mxfp4),
    _row(40, microscaled_blocks.nvfp4),
)

BLOCK_TYPES = {row.name: row for row in _ROWS}
GGUF_TYPES = {row.gguf_type: row for row in _ROWS}

"""The table of block types: GGUF's numbers and sizes, and each one's decoder."""

from __future__ import annotations

import torch

from neuron.models.formats import microscaled_blocks, small_blocks, super_blocks
from neuron.models.formats.block_type import BlockType
from neuron.models.formats.small_blocks import IQ4_VALUES, plain

_ROWS = (
    BlockType("f32", 0, 1, 4, plain(torch.float32)),
    BlockType("f16", 1, 1, 2, plain(torch.float16)),
    BlockType("q4_0", 2, 32, 18, small_blocks.q4_0),
    BlockType("q4_1", 3, 32, 20, small_blocks.q4_1),
    BlockType("q5_0", 6, 32, 22, small_blocks.q5_0),
    BlockType("q5_1", 7, 32, 24, small_blocks.q5_1),
    BlockType("q8_0", 8, 32, 34, small_blocks.q8_0),
    BlockType("q2_k", 10, 256, 84, super_blocks.q2_k),
    BlockType("q3_k", 11, 256, 110, super_blocks.q3_k),
    BlockType("q4_k", 12, 256, 144, super_blocks.q4_k),
    BlockType("q5_k", 13, 256, 176, super_blocks.q5_k),
    BlockType("q6_k", 14, 256, 210, super_blocks.q6_k),
    BlockType("iq4_nl", 20, 32, 18, small_blocks.iq4_nl, IQ4_VALUES),
    BlockType("iq4_xs", 23, 256, 136, super_blocks.iq4_xs, IQ4_VALUES),
    BlockType("bf16", 30, 1, 2, plain(torch.bfloat16)),
    BlockType("tq1_0", 34, 256, 54, super_blocks.tq1_0),
    BlockType("tq2_0", 35, 256, 66, super_blocks.tq2_0),
    BlockType("mxfp4", 39, 32, 17, microscaled_blocks.mxfp4),
    BlockType("nvfp4", 40, 64, 36, microscaled_blocks.nvfp4),
)

BLOCK_TYPES = {row.name: row for row in _ROWS}
GGUF_TYPES = {row.gguf_type: row for row in _ROWS}

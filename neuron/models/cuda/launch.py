"""Launches the kernel of `neuron.models.cuda.kernel`: in which tiles, and over how many programs.

    rows        tiles
    1           8 outputs, multiplied and summed: as fast as the weights are read
    2 to 64     all rows by 64 outputs, on tensor cores; weights are read once
    more        64 or 128 rows by 128 outputs

Where that makes fewer programs than a GPU runs at once, columns are split, too, and the parts' sums added up.
Nothing waits for the device, so that CUDA graphs capture it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from neuron.models.cuda.kernel import product_kernel
from neuron.models.cuda.unpacking import UNPACKING
from neuron.models.matrix import Groups, Matrix

_MAX_SPLITS = 8
_PROGRAMS = 4  # at once on a multiprocessor
_ONE_TOKEN = 16  # rows for experts up to which each is multiplied by itself


class Tiles(NamedTuple):
    """What one program computes, and by how many warps."""

    rows: int
    outputs: int
    bytes: int  # of codes, a step
    warps: int = 4

    @classmethod
    def of(cls, rows: int) -> Tiles:
        """Return the tiles for a product of so many rows."""
        if rows == 1:
            return cls(1, 8, 256)
        if rows <= 64:
            return cls(max(16, triton.next_power_of_2(rows)), 64, 64)
        return cls(64, 128, 32) if rows <= 256 else cls(128, 128, 32, warps=8)


def suits(matrix: Matrix) -> bool:
    """Return whether the kernel multiplies by a matrix: its rows and its groups have whole units."""
    unpacking = UNPACKING.get(matrix.format.name)
    if unpacking is None or matrix.in_features % unpacking.elements:
        return False
    _, *scales = matrix.blocks
    return not scales or matrix.in_features // scales[0].shape[-1] % unpacking.elements == 0


class KernelProduct:
    """Multiplies rows by a matrix of a format in `UNPACKING`, or by all experts' matrices."""

    def __init__(self, matrix: Matrix, table: Tensor | None = None) -> None:
        self._unpacking = UNPACKING[matrix.format.name]
        blocks = [block.contiguous() for block in matrix.blocks]
        self._blocks, self._scales, self._zeros = (*blocks, None, None)[:3]
        self._table = table
        self._bias = matrix.bias
        self._experts = len(matrix.blocks[0]) if matrix.ndim == 3 else 1
        self._outputs, self._columns = matrix.shape[-2:]
        self._group = 1 if self._scales is None else self._columns // self._scales.shape[-1]

    def __call__(self, x: Tensor) -> Tensor:
        tiles = Tiles.of(len(x))
        return self._launch(x, None, tiles, triton.cdiv(len(x), tiles.rows))

    def grouped(self, x: Tensor, groups: Groups) -> Tensor:
        rows = len(x)
        tiles = Tiles.of(1 if rows <= _ONE_TOKEN else max(2, triton.cdiv(rows, self._experts)))
        # Every expert may begin a tile of its own.
        return self._launch(x, groups.ends, tiles, min(rows, rows // tiles.rows + self._experts))

    def _launch(self, x: Tensor, ends: Tensor | None, tiles: Tiles, num_tiles: int) -> Tensor:
        rows, unit = len(x), self._unpacking
        across = triton.cdiv(self._outputs, tiles.outputs)
        units = max(1, tiles.bytes // unit.bytes)
        steps = triton.cdiv(self._columns // unit.elements, units)
        splits = num_splits(num_tiles * across, steps, _multiprocessors(x.device))
        sums = x.new_empty(splits, rows, self._outputs, dtype=torch.float32 if splits > 1 else x.dtype)
        if not rows:
            return sums[0].to(x.dtype)
        product_kernel[num_tiles, across, splits](
            x.contiguous(),
            self._blocks,
            self._scales,
            self._zeros,
            self._table,
            self._bias,
            sums,
            ends,
            rows,
            self._outputs,
            self._columns,
            self._group,
            self._experts,
            unpack=unit.function,
            UNIT_BYTES=unit.bytes,
            PARTS=unit.parts,
            EXPERTS=triton.next_power_of_2(self._experts),
            BLOCK_ROWS=tiles.rows,
            BLOCK_OUTPUTS=tiles.outputs,
            BLOCK_UNITS=units,
            SPLITS=splits,
            num_warps=tiles.warps,
        )
        return sums[0] if splits == 1 else sums.sum(0).to(x.dtype)


def num_splits(programs: int, steps: int, multiprocessors: int) -> int:
    """Return into how many parts the columns are split: a power of two."""
    splits = 1
    while splits < min(_MAX_SPLITS, steps) and programs * splits < _PROGRAMS * multiprocessors:
        splits *= 2
    return splits


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)

"""Products on a CPU by `ext.matmul`, which reads weights where and as they are stored."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ext import matmul
from neuron.device.row_steps import STORED
from neuron.models.matrix import GroupedProduct, Groups, Matrix, Product

_native: Any = matmul.load()
_HUGE_PAGE = 2 << 20


@cache
def _formats() -> dict[str, int]:
    """The numbers of formats."""
    return {name: number for number, (name, *_) in enumerate(_native.formats())} if _native else {}


def multiplies(format_name: str, device: torch.device) -> bool:
    """Return whether a format's weights are multiplied here as they are stored."""
    return device.type == "cpu" and format_name in _formats()


def cpu_product(format_name: str, matrix: Matrix, group: int = 0) -> Product:
    """Return the product of float32 by a matrix of blocks; or of codes, scales and zeros, of which `group`
    inputs share one."""
    return CpuProduct(format_name, matrix, group)


def cpu_grouped_product(format_name: str, matrix: Matrix, group: int = 0) -> GroupedProduct:
    """Return the same of all experts' matrices, shared over the threads as one product."""
    return CpuProduct(format_name, matrix, group).multiply_grouped


def unpacks(format_name: str, matrix: Matrix, dtype: torch.dtype) -> bool:
    """Return whether `unpack_rows` gives the rows of a matrix as `dtype` has them."""
    (rows, *others) = matrix.blocks
    is_plain = not others and matrix.ndim == 2 and matrix.bias is None and matrix.factor is None
    is_here = multiplies(format_name, rows.device) and rows.is_contiguous()
    return is_here and is_plain and matrix.input_order is None and dtype in STORED


def unpack_rows(format_name: str, matrix: Matrix, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return some rows of a matrix of blocks, (…, in), by number: float32, rounded to what `dtype` can be.

    Nothing is checked: numbers are those of rows.
    """
    kind = matmul.instruction_set(), _formats()[format_name]
    out = torch.empty(len(rows), matrix.in_features)
    where = matrix.blocks[0].data_ptr(), STORED[dtype], rows.data_ptr()
    _native.unpack_rows(*kind, *out.shape, *where, out.data_ptr(), torch.get_num_threads())
    return out


def _in_a_row(part: Tensor) -> Tensor:
    """Return the tensor with its bytes in a row: as it is, or a copy, whose pages are huge if it is large.

    One thread reads pages of 2 MB nearly twice as fast as those of 4 KB.
    """
    if part.is_contiguous() or part.nbytes < _HUGE_PAGE:
        return part.contiguous()
    memory = mmap.mmap(-1, part.nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=part.dtype).view(part.shape).copy_(part)


def multiply_side_by_side(products: Sequence[CpuProduct], x: Tensor) -> Tensor:
    """Return what products make of the same inputs, side by side."""
    outs = [product.out_features for product in products]
    y = torch.empty(x.shape[0], sum(outs), dtype=torch.float32)
    for product, part in zip(products, torch.split(y, outs, -1), strict=True):
        product.write(x, part)
    return y if x.dtype is torch.float32 else y.to(x.dtype)


class CpuProduct:
    """A `Product` of stored weights."""

    def __init__(self, format_name: str, matrix: Matrix, group: int) -> None:
        self._kind = matmul.instruction_set(), _formats()[format_name]
        self._parts = tuple(_in_a_row(part) for part in matrix.blocks)  # kept, for their addresses are
        self._bias = None if matrix.bias is None else matrix.bias.float().contiguous()
        self._in_features = matrix.in_features
        self.out_features = matrix.num_outputs
        self._num_matrices = len(matrix.blocks[0]) if matrix.ndim > 2 else 1
        self._check(group)
        addresses = [part.data_ptr() for part in self._parts]
        bias_address = 0 if self._bias is None else self._bias.data_ptr()
        self._stored = *(*addresses, 0, 0)[:3], self.out_features, group, bias_address

    def _check(self, group: int) -> None:
        """Raise ValueError if the parts are not as large as they are read."""
        _, elements, size = _native.formats()[self._kind[1]]
        rows = self._num_matrices * self.out_features
        sizes = [self._in_features // elements * size]
        if group:
            sizes += [self._in_features // group * width for width in (4, 1)]  # of scales, zeros
        found = [part.nbytes for part in self._parts]
        if self._in_features % elements or found != [rows * size for size in sizes][: len(found)]:
            raise ValueError(f"{found} bytes are no {rows} rows of {self._in_features} weights")

    def __call__(self, x: Tensor) -> Tensor:
        return self._multiplied(x, 0)

    def multiply_grouped(self, x: Tensor, groups: Groups) -> Tensor:
        return self._multiplied(x, groups.ends.data_ptr())

    def _multiplied(self, x: Tensor, ends: int) -> Tensor:
        y = torch.empty(x.shape[0], self.out_features, dtype=torch.float32)
        self.write(x, y, ends)
        return y if x.dtype is torch.float32 else y.to(x.dtype)

    def write(self, x: Tensor, y: Tensor, ends: int = 0) -> None:
        """Write the product to `y`, (rows, out), float32, of which rows alone must be contiguous."""
        rows, columns = x.shape
        if columns != self._in_features:
            raise ValueError(f"{columns} inputs for {self._in_features} weights")
        inputs = x.float().contiguous()
        where = inputs.data_ptr(), rows, columns
        to = y.data_ptr(), y.stride(0), torch.get_num_threads()
        _native.multiply(*self._kind, *where, *self._stored, *to, ends, self._num_matrices)

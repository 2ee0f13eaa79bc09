"""Products on a CPU by `ext.matmul`, which reads weights where and as they are stored."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ext import matmul
from neuron.models.matrix import GroupedProduct, Groups, Matrix, Product

_native: Any = matmul.load()


@cache
def _formats() -> dict[str, int]:
    """The numbers of formats."""
    return {name: number for number, (name, *_) in enumerate(_native.formats())} if _native else {}


@cache
def _instruction_set() -> int:
    """The number of the instruction set to use: the best one, or that of the setting. Raises ValueError."""
    names = _native.instruction_sets()
    name = os.environ.get(matmul.SETTING) or names[0]
    if name not in names:
        raise ValueError(f"{matmul.SETTING} is {name}; this CPU has {', '.join(names)}")
    return int(names.index(name))


def multiplies(format_name: str, device: torch.device) -> bool:
    """Return whether a format's weights are multiplied here as they are stored."""
    return device.type == "cpu" and format_name in _formats()


def cpu_product(format_name: str, matrix: Matrix, group: int = 0) -> Product:
    """Return the product of float32 by a matrix of blocks; or of codes, scales and zeros, of which `group`
    inputs share one."""
    return _Weights(format_name, matrix, group).multiply


def cpu_grouped_product(format_name: str, matrix: Matrix, group: int = 0) -> GroupedProduct:
    """Return the same of all experts' matrices, shared over the threads as one product."""
    return _Weights(format_name, matrix, group).multiply_grouped


class _Weights:
    def __init__(self, format_name: str, matrix: Matrix, group: int) -> None:
        self._kind = _instruction_set(), _formats()[format_name]
        self._parts = tuple(part.contiguous() for part in matrix.blocks)  # kept, for their addresses are
        self._bias = None if matrix.bias is None else matrix.bias.float().contiguous()
        self._in_features = matrix.in_features
        self._out_features = matrix.num_outputs
        self._num_matrices = len(matrix.blocks[0]) if matrix.ndim > 2 else 1
        self._check(group)
        addresses = [part.data_ptr() for part in self._parts]
        bias_address = 0 if self._bias is None else self._bias.data_ptr()
        self._stored = *(*addresses, 0, 0)[:3], self._out_features, group, bias_address

    def _check(self, group: int) -> None:
        """Raise ValueError if the parts are not as large as they are read."""
        _, elements, size = _native.formats()[self._kind[1]]
        rows = self._num_matrices * self._out_features
        sizes = [self._in_features // elements * size]
        if group:
            sizes += [self._in_features // group * width for width in (4, 1)]  # of scales, zeros
        found = [part.nbytes for part in self._parts]
        if self._in_features % elements or found != [rows * size for size in sizes][: len(found)]:
            raise ValueError(f"{found} bytes are no {rows} rows of {self._in_features} weights")

    def multiply(self, x: Tensor) -> Tensor:
        return self._multiply(x, 0)

    def multiply_grouped(self, x: Tensor, groups: Groups) -> Tensor:
        return self._multiply(x, groups.ends.data_ptr())

    def _multiply(self, x: Tensor, ends: int) -> Tensor:
        rows, columns = x.shape
        if columns != self._in_features:
            raise ValueError(f"{columns} inputs for {self._in_features} weights")
        inputs = x.float().contiguous()
        y = inputs.new_empty(rows, self._out_features)
        where = inputs.data_ptr(), rows, columns
        y_address, threads = y.data_ptr(), torch.get_num_threads()
        _native.multiply(*self._kind, *where, *self._stored, y_address, threads, ends, self._num_matrices)
        return y if x.dtype is torch.float32 else y.to(x.dtype)

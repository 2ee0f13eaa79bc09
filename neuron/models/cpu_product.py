"""Products on a CPU by `ext.matmul`, which reads weights where and as they are stored."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ext import matmul
from neuron.models.matrix import GroupedProduct, Groups, Product

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


def cpu_product(
    format_name: str, parts: tuple[Tensor, ...], bias: Tensor | None, in_features: int, group: int = 0
) -> Product:
    """Return the product of float32 by stored weights, (out, …) each: blocks; or codes, scales and zeros, of
    which `group` inputs share one."""
    return _Weights(format_name, parts, bias, in_features, group).multiply


def cpu_grouped_product(
    format_name: str, parts: tuple[Tensor, ...], bias: Tensor | None, in_features: int, group: int = 0
) -> GroupedProduct:
    """Return the same of several matrices, (experts, out, …) each."""
    return _Weights(format_name, parts, bias, in_features, group).multiply_grouped


class _Weights:
    def __init__(
        self,
        format_name: str,
        parts: tuple[Tensor, ...],
        bias: Tensor | None,
        in_features: int,
        group: int,
    ) -> None:
        self._parts = tuple(part.contiguous() for part in parts)  # kept, for their addresses are
        self._bias = None if bias is None else bias.float().contiguous()
        self._in_features = in_features
        shape = parts[0].shape
        self._out_features = shape[-2]
        self._num_matrices = shape[0] if len(shape) > 2 else 1
        self._kind = _instruction_set(), _formats()[format_name]
        addresses = [part.data_ptr() for part in self._parts]
        bias_address = 0 if self._bias is None else self._bias.data_ptr()
        self._stored = *(*addresses, 0, 0)[:3], self._out_features, group, bias_address

    def multiply(self, x: Tensor) -> Tensor:
        return self._multiply(x, 0)

    def multiply_grouped(self, x: Tensor, groups: Groups) -> Tensor:
        return self._multiply(x, groups.ends.data_ptr())

    def _multiply(self, x: Tensor, ends: int) -> Tensor:
        x = x.contiguous()
        rows = len(x)
        y = x.new_empty(rows, self._out_features)
        where = x.data_ptr(), rows, self._in_features
        y_address, threads = y.data_ptr(), torch.get_num_threads()
        _native.multiply(*self._kind, *where, *self._stored, y_address, threads, ends, self._num_matrices)
        return y

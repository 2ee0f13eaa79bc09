"""Weights of plain numbers.

On a CPU `ext` multiplies by them as they are. Where it was not built, and on other devices, they are packed
into the layout in which the device's library multiplies them fastest.

    dtype and device                                                packed as
    float32, and bfloat16 where the CPU has instructions for it     oneDNN's blocks
    bfloat16 on other CPUs, float16 on a CPU                        FBGEMM: float16, summed in float32
    everything else, and weights beyond float16's range             not packed

FBGEMM keeps every bit of a bfloat16 weight from 2**-14 on and is off by less than 2**-24 below. Without
instructions for bfloat16, torch's own product costs nearly as much for every row as for one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, linear

from neuron.models import private
from neuron.models.formats.cpu_product import cpu_grouped_product, cpu_product, multiplies
from neuron.models.matrix import GroupedProduct, Matrix, Product

_HALF_MAX = torch.finfo(torch.float16).max
_NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}  # of formats of `ext`


class FloatFormat:
    """A `neuron.models.matrix.MatrixFormat`: one block, (out, in), and products of `activation_dtype`."""

    name = "float"

    def dequantize(self, blocks: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        return blocks[0].to(dtype)

    def unit(self, in_features: int) -> int:
        return 1

    def columns(self, blocks: Sequence[Tensor], inputs: slice) -> tuple[FloatFormat, tuple[Tensor, ...]]:
        return self, (blocks[0][..., inputs],)

    def product(self, matrix: Matrix) -> Product:
        (weight,), bias = matrix.blocks, matrix.bias
        if _uses_ext(weight.device, weight.dtype):
            return cpu_product(_NAMES[weight.dtype], matrix)
        if _uses_onednn(weight.device, weight.dtype):
            return _of_dtype(weight.dtype, private.onednn_linear(weight, bias))
        if not _uses_fbgemm(weight.device, weight.dtype):
            return _of_dtype(weight.dtype, lambda x: linear(x, weight, bias))
        if weight.abs().max().item() <= _HALF_MAX:
            return private.fbgemm_linear(weight, bias)
        return _of_dtype(weight.dtype, lambda x: linear(x, weight, bias))

    def grouped_product(self, matrix: Matrix) -> GroupedProduct | None:
        weight, bias = matrix.blocks[0].transpose(1, 2), matrix.bias
        if _uses_ext(weight.device, weight.dtype):
            return cpu_grouped_product(_NAMES[weight.dtype], matrix)
        if not _uses_grouped_mm(weight):
            return None
        if bias is None:
            return lambda x, groups: grouped_mm(x, weight, offs=groups.ends)
        return lambda x, groups: grouped_mm(x, weight, offs=groups.ends).add_(bias[groups.experts])


FLOATS = FloatFormat()


def _of_dtype(dtype: torch.dtype, product: Product) -> Product:
    """Return a product of `dtype` for activations of any: beside stored weights they are float32 on a CPU."""
    if dtype is torch.float32:
        return product
    return lambda x: product(x.to(dtype)).to(x.dtype)


def activation_dtype(
    device: torch.device, dtype: torch.dtype, *, has_stored_weights: bool = False
) -> torch.dtype:
    """Return the dtype of activations in a model of `dtype`.

    It is float32 where linear layers are FBGEMM's, or weights are multiplied on a CPU as they are stored.
    """
    is_stored = (has_stored_weights and device.type == "cpu") or _uses_ext(device, dtype)
    return torch.float32 if is_stored or _uses_fbgemm(device, dtype) else dtype


def _uses_ext(device: torch.device, dtype: torch.dtype) -> bool:
    return dtype in _NAMES and multiplies(_NAMES[dtype], device)


def _uses_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and private.onednn_multiplies(dtype)


def _uses_fbgemm(device: torch.device, dtype: torch.dtype) -> bool:
    is_half = dtype in {torch.bfloat16, torch.float16}
    return device.type == "cpu" and is_half and not _uses_onednn(device, dtype) and private.has_fbgemm()


def _uses_grouped_mm(weight: Tensor) -> bool:
    """Return whether one operation multiplies by matrices, (experts, in, out), and the host need not wait.

    CUDA's is for bfloat16, rows of 16 bytes at a time. On a CPU packed products, one by one, are faster.
    """
    is_aligned = all(size % 8 == 0 for size in weight.shape[1:])
    return weight.device.type == "cuda" and weight.dtype is torch.bfloat16 and is_aligned

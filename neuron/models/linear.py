"""Linear layers, packed into the layout in which the device's library multiplies them fastest.

    dtype and device                                                packed as
    float32, and bfloat16 where the CPU has instructions for it     oneDNN's blocks
    bfloat16 on other CPUs, float16 on a CPU                        FBGEMM: float16, summed in float32
    everything else, and weights beyond float16's range             not packed

FBGEMM keeps every bit of a bfloat16 weight from 2**-14 on and is off by less than 2**-24 below. Without
instructions for bfloat16, torch's own product costs nearly as much for every row as for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from neuron.models import private

_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """Maps (tokens, `in_features`) to (tokens, out), both of `activation_dtype`."""

    multiply: Callable[[Tensor], Tensor]
    in_features: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.multiply(x)


def activation_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of activations in a model of `dtype`: float32 where its linear layers are FBGEMM's."""
    return torch.float32 if _uses_fbgemm(device, dtype) else dtype


@dataclass(slots=True)
class LinearPart:
    """Some rows of a linear module; `pack_linear` takes it for one."""

    weight: Tensor | None
    bias: Tensor | None


def split_rows(module: Any, heads: int, sizes: Sequence[int]) -> list[LinearPart]:
    """Return the parts of a linear module whose rows come head by head, `sizes` of each part.

    `module` gives up its weights.
    """

    def parts(rows: Tensor) -> list[Tensor]:
        by_head = rows.view(heads, -1, *rows.shape[1:])
        return [part.flatten(0, 1) for part in torch.split(by_head, list(sizes), 1)]

    weights = parts(module.weight)
    biases = [None] * len(weights) if module.bias is None else parts(module.bias)
    module.weight = module.bias = None
    return [*map(LinearPart, weights, biases)]


def pack_linear(modules: Sequence[Any]) -> PackedLinear:
    """Return one linear layer in place of several that have the same input.

    `modules` are torch's linear modules; they give up their weights, so that none is held twice.
    """
    weight = modules[0].weight if len(modules) == 1 else torch.cat([module.weight for module in modules])
    biases = [module.bias for module in modules]
    bias = None if biases[0] is None else torch.cat(biases)
    for module in modules:
        module.weight = module.bias = None
    return PackedLinear(_multiply(weight, bias), weight.shape[1])


def _multiply(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    if _uses_onednn(weight.device, weight.dtype):
        return private.onednn_linear(weight, bias)
    if not _uses_fbgemm(weight.device, weight.dtype):
        return lambda x: linear(x, weight, bias)
    if weight.abs().max().item() <= _HALF_MAX:
        return private.fbgemm_linear(weight, bias)
    return lambda x: linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def _uses_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and private.onednn_multiplies(dtype)


def _uses_fbgemm(device: torch.device, dtype: torch.dtype) -> bool:
    is_half = dtype in {torch.bfloat16, torch.float16}
    return device.type == "cpu" and is_half and not _uses_onednn(device, dtype) and private.has_fbgemm()

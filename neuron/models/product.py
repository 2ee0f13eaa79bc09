"""Linear maps, each in the layout in which the device's library multiplies it fastest.

    float32, and bfloat16 where the CPU has instructions for it    oneDNN's own
    bfloat16 on other CPUs, float16                                FBGEMM's: float16, summed in float32
    anything else, and what float16 cannot hold                    as it is

FBGEMM's keeps every bit of a bfloat16 weight from 2**-14 on, and is wrong by less than 2**-24 below; without
instructions for bfloat16 torch's own product costs nearly as much for each row as for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import linear

Product = Callable[[torch.Tensor], torch.Tensor]  # (tokens, in) to (tokens, out)

_HALF_MAX = torch.finfo(torch.float16).max


def product(modules: Sequence[Any]) -> Product:
    """One linear map in place of several on the same input; their own weights are given up."""
    weight = modules[0].weight if len(modules) == 1 else torch.cat([module.weight for module in modules])
    biases = [module.bias for module in modules]
    bias = None if biases[0] is None else torch.cat(biases)
    for module in modules:
        module.weight = module.bias = None
    if _has_onednn(weight):
        return _onednn(weight, bias)
    if _has_fbgemm(weight):
        return _fbgemm(weight, bias)
    return lambda x: linear(x, weight, bias)


def _has_onednn(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return weight.dtype is torch.float32


def _onednn(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # noqa: SLF001
    multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - what torch's own compiler emits
    return lambda x: multiply(x, packed, bias, "none", [], "")


def _has_fbgemm(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype in {torch.bfloat16, torch.float16}
        and "fbgemm" in torch.backends.quantized.supported_engines
        and weight.abs().max().item() <= _HALF_MAX
    )


def _fbgemm(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    dtype = weight.dtype
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())
    multiply = torch.ops.quantized.linear_dynamic_fp16
    return lambda x: multiply(x.float(), packed).to(dtype)

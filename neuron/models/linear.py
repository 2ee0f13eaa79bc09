"""Linear maps, each in the layout in which the device's library multiplies it fastest.

    float32, and bfloat16 where the CPU has instructions for it    oneDNN's own
    bfloat16 on other CPUs, float16                                FBGEMM's: float16, summed in float32
    anything else, and what float16 cannot hold                    as it is

FBGEMM's keeps every bit of a bfloat16 weight from 2**-14 on, and is wrong by less than 2**-24 below; without
instructions for bfloat16 torch's own product costs nearly as much for each row as for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear

_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """Maps (tokens, `width`) to (tokens, out), both of `activation_dtype`."""

    multiply: Callable[[torch.Tensor], torch.Tensor]
    in_features: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.multiply(x)


def activation_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """In which a model of `dtype` computes between its products: float32 where these take and give it."""
    return torch.float32 if _has_fbgemm(device, dtype) else dtype


def pack_linear(modules: Sequence[Any]) -> PackedLinear:
    """One linear map in place of several on the same input; their own weights are given up."""
    weight = modules[0].weight if len(modules) == 1 else torch.cat([module.weight for module in modules])
    biases = [module.bias for module in modules]
    bias = None if biases[0] is None else torch.cat(biases)
    for module in modules:
        module.weight = module.bias = None
    return PackedLinear(_multiply(weight, bias), weight.shape[1])


def _multiply(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if _has_onednn(weight.device, weight.dtype):
        return _onednn(weight, bias)
    if not _has_fbgemm(weight.device, weight.dtype):
        return lambda x: linear(x, weight, bias)
    if weight.abs().max().item() <= _HALF_MAX:
        return _fbgemm(weight, bias)
    return lambda x: linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def _has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return dtype is torch.float32


def _onednn(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # noqa: SLF001
    multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - what torch's own compiler emits
    return lambda x: multiply(x, packed, bias, "none", [], "")


def _has_fbgemm(device: torch.device, dtype: torch.dtype) -> bool:
    return (
        device.type == "cpu"
        and dtype in {torch.bfloat16, torch.float16}
        and not _has_onednn(device, dtype)
        and "fbgemm" in torch.backends.quantized.supported_engines
    )


def _fbgemm(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())
    multiply = torch.ops.quantized.linear_dynamic_fp16
    return lambda x: multiply(x, packed)

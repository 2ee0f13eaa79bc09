"""The gated short convolution of LFM2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuron.device import row_steps
from neuron.device.convolution import convolve, convolve_gated, gates_in_place, tail_shape
from neuron.device.state_pool import StateName, StateShape
from neuron.models.fused.layer_kind import LayerKind, ModelFacts, Step
from neuron.models.linear import PackedLinear, pack_linear


@dataclass(frozen=True, slots=True)
class ShortConvolution(LayerKind):
    """A causal convolution of each channel, with a gate before it and one after it."""

    layer: int
    dtype: torch.dtype  # of the convolution's tail
    inputs: PackedLinear  # gate before, gate after, and what they gate
    weight: Tensor  # (kernel, hidden)
    bias: Tensor | None
    out: PackedLinear

    def __call__(self, x: Tensor, _: Step) -> Tensor:
        inputs = self.inputs(x)
        if gates_in_place(inputs, self.dtype):
            return self.out(convolve_gated(self._tail, inputs, self.weight, self.bias))
        before, after, gated = inputs.chunk(3, -1)
        mixed = convolve(self._tail, before * gated, self.weight, self.bias)
        return self.out(mixed.mul_(after).to(x.dtype))

    @property
    def is_recordable(self) -> bool:
        return row_steps.runs_in_c(self.weight) and self.dtype in row_steps.STORED

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return self.inputs, self.out

    @property
    def _tail(self) -> StateName:
        return StateName(self.layer, "conv", 0)

    @property
    def states(self) -> Mapping[StateName, StateShape]:
        return {self._tail: tail_shape(self.weight, self.dtype)}


def short_convolution(module: Any, facts: ModelFacts) -> ShortConvolution:
    """Return the kind of a module like LFM2's `conv`."""
    weight, bias = convolution_weights(module.conv)
    return ShortConvolution(
        layer=module.layer_idx,
        dtype=facts.dtype,
        inputs=pack_linear([module.in_proj]),
        weight=weight,
        bias=bias,
        out=pack_linear([module.out_proj]),
    )


def convolution_weights(module: Any) -> tuple[Tensor, Tensor | None]:
    """Return the weights of a torch convolution of each channel, (kernel, channels), and its bias."""
    weight = module.weight[:, 0].t().float().contiguous()
    return weight, None if module.bias is None else module.bias.float()

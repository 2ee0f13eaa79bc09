"""Linear attention by the gated delta rule, behind a short convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from neuron.device.convolution import convolve
from neuron.device.delta_rule import gated_delta_rule
from neuron.device.delta_step import DeltaLayer
from neuron.models.fused.layer_kind import ModelFacts, Step
from neuron.models.fused.norm import RmsNorm, l2_norm, rms_norm
from neuron.models.fused.recurrence import Recurrence, memory_of, tail_of
from neuron.models.fused.short_convolution import convolution_weights
from neuron.models.linear import PackedLinear, pack_linear, pack_matrices, take_matrix
from neuron.models.matrix import split_heads


@dataclass(frozen=True, slots=True)
class DeltaShape:
    """Heads of keys, which queries have as many of, and of values, and their dimensions."""

    key_heads: int
    heads: int
    key_dim: int
    value_dim: int

    @property
    def widths(self) -> list[int]:
        """Of what the input becomes: what is convolved, the gates, and each head's strength and rate."""
        values = self.heads * self.value_dim
        return [2 * self.key_heads * self.key_dim + values, values, self.heads, self.heads]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRule(Recurrence):
    """The gated delta rule (Yang, Kautz and Hatamizadeh 2024) with a gated norm, as in Qwen3-Next."""

    shape: DeltaShape
    norm: RmsNorm  # to float32
    in_place: DeltaLayer  # all between the linear layers, and the weights of that

    def __call__(self, x: Tensor, _: Step) -> Tensor:
        inputs = self.inputs(x)
        if self.in_place.runs_in_place(inputs):
            return self.out(self.in_place(inputs))
        return self.out(self._between(inputs).to(x.dtype))

    def _between(self, inputs: Tensor) -> Tensor:
        """Return what `in_place` does, by torch's operations."""
        shape = self.shape
        mixed, gate, strength, rate = torch.split(inputs, shape.widths, -1)
        mixed = silu(convolve(self.tail, mixed, self.convolution))
        num_key = 2 * shape.key_heads * shape.key_dim
        query, key = l2_norm(mixed[:, :num_key].view(len(inputs), -1, shape.key_dim)).chunk(2, 1)
        read = gated_delta_rule(
            self.memory,
            query,
            key,
            mixed[:, num_key:].view(len(inputs), -1, shape.value_dim),
            log_decay=softplus(rate.float().add_(self.in_place.rate_bias)).mul_(self.in_place.rate),
            strength=strength.float().sigmoid_().mul_(self.in_place.most),
        )
        return self.norm(read).flatten(1).mul_(silu(gate.float()))

    @property
    def is_recordable(self) -> bool:
        return self.in_place.runs_in_c

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        return self.shape.heads, self.shape.key_dim, self.shape.value_dim


def delta_rule(module: Any, facts: ModelFacts) -> DeltaRule:
    """Return the kind of a module like Qwen3.5's `linear_attn`."""
    linears = [module.in_proj_qkv, module.in_proj_z, module.in_proj_b, module.in_proj_a]
    return _delta_rule(module, pack_linear(linears), facts)


def grouped_delta_rule(module: Any, facts: ModelFacts) -> DeltaRule:
    """Return the kind of a module like Qwen3-Next's, whose linear layers have their rows by heads of keys."""
    shape = _shape(module)
    heads = shape.heads // shape.key_heads
    values = heads * shape.value_dim
    sizes = shape.key_dim, shape.key_dim, values, values
    parts = split_heads(take_matrix(module.in_proj_qkvz), shape.key_heads, sizes)
    parts += split_heads(take_matrix(module.in_proj_ba), shape.key_heads, (heads, heads))
    return _delta_rule(module, pack_matrices(parts), facts)


def _delta_rule(module: Any, inputs: PackedLinear, facts: ModelFacts) -> DeltaRule:
    shape = _shape(module)
    norm = rms_norm(module.norm, torch.float32)
    # Queries are as long as keys, one, not key_dim**-0.5: what they read is longer by as much.
    norm = RmsNorm(norm.weight, norm.eps * shape.key_dim, norm.dtype)
    layer = module.layer_idx
    in_place = DeltaLayer(
        *(shape.key_heads, shape.heads, shape.key_dim, shape.value_dim),
        tail=tail_of(layer),
        tail_dtype=facts.dtype,
        memory=memory_of(layer),
        convolution=convolution_weights(module.conv1d)[0],
        rate=-module.A_log.float().exp(),
        rate_bias=module.dt_bias.float(),
        most=1.0,
        norm=norm.weight,
        eps=norm.eps.item(),
    )
    return DeltaRule(
        layer=layer,
        shape=shape,
        dtype=facts.dtype,
        inputs=inputs,
        convolution=in_place.convolution,
        norm=norm,
        out=pack_linear([module.out_proj]),
        in_place=in_place,
    )


def _shape(module: Any) -> DeltaShape:
    return DeltaShape(module.num_k_heads, module.num_v_heads, module.head_k_dim, module.head_v_dim)

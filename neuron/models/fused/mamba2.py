"""Mamba 2: a selective state space behind a short convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from neuron.device.convolution import convolve
from neuron.device.state_space import state_space
from neuron.models.fused.layer_kind import ModelFacts, Step
from neuron.models.fused.norm import OF_ALL_RANKS, JoinedRmsNorm, Norm, RmsNorm, rms_norm
from neuron.models.fused.recurrence import Recurrence
from neuron.models.fused.short_convolution import convolution_weights
from neuron.models.linear import PackedLinear, pack_linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2(Recurrence):
    """A selective state space (Dao and Gu 2024) with a gate before its norm, as in Bamba."""

    heads: int
    groups: int  # of heads with the same keys and queries
    key_dim: int
    value_dim: int
    inputs: PackedLinear  # gates, what is convolved, and each head's step size
    convolution: Tensor  # (kernel, channels) of values, keys and queries, in this order
    convolution_bias: Tensor | None
    rate: Tensor  # (heads,): how fast a state decays
    step_bias: Tensor  # (heads,)
    passed: Tensor  # (heads, 1): how much of a value passes by the state
    norm: Norm  # of the heads of each group

    def __call__(self, x: Tensor, _: Step) -> Tensor:
        values, keys = self.heads * self.value_dim, self.groups * self.key_dim
        gate, mixed, steps = torch.split(self.inputs(x), [values, values + 2 * keys, self.heads], -1)
        mixed = silu(convolve(self.tail, mixed, self.convolution, self.convolution_bias))
        value, key, query = torch.split(mixed, [values, keys, keys], -1)
        value = value.view(len(x), self.heads, self.value_dim)
        steps = softplus(steps.float() + self.step_bias)
        read = state_space(
            self.memory,
            query.view(len(x), self.groups, self.key_dim),
            key.view(len(x), self.groups, self.key_dim),
            value * steps.unsqueeze(2),
            log_decay=steps * self.rate,
        )
        read = torch.addcmul(read, value, self.passed).view(len(x), values)
        read = read.mul_(silu(gate.float()))
        return self.out(self.norm(read.view(len(x), self.groups, -1)).flatten(1).to(x.dtype))

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        return self.heads, self.key_dim, self.value_dim


def _norm(module: Any, groups: int) -> Norm:
    """Return the norm of values of shape (tokens, groups, …)."""
    norm = rms_norm(module, torch.float32)
    kind = JoinedRmsNorm if getattr(module, OF_ALL_RANKS, False) else RmsNorm
    return kind(norm.weight.view(groups, -1), norm.eps, norm.dtype)


def mamba2(module: Any, facts: ModelFacts) -> Mamba2:
    """Return the kind of a module like Bamba's `mamba`."""
    weight, bias = convolution_weights(module.conv1d)
    return Mamba2(
        layer=module.layer_idx,
        heads=module.num_heads,
        groups=module.n_groups,
        key_dim=module.ssm_state_size,
        value_dim=module.head_dim,
        dtype=facts.dtype,
        inputs=pack_linear([module.in_proj]),
        convolution=weight,
        convolution_bias=bias,
        rate=-module.A_log.float().exp(),
        step_bias=module.dt_bias.float(),
        passed=module.D.float().unsqueeze(1),
        norm=_norm(module.norm, module.n_groups),
        out=pack_linear([module.out_proj]),
    )

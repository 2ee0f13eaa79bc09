"""What MLPs do between their products, to rows that have gate and up projection together.

The common ones are one call of `ext.matmul` each where it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.activations import SiLUActivation

from neuron.device import row_steps
from neuron.models import private

Gate = Callable[[Tensor], Tensor]  # (rows, 2 * width) to (rows, width)


def silu_gate(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up (Shazeer 2020) of rows that have first one, then the other."""
    if row_steps.runs_in_c(gate_up) and gate_up.is_contiguous():
        return row_steps.silu_gate(gate_up)
    return gate_by(silu, gate_up)


def gate_by(activation: Callable[[Tensor], Tensor], gate_up: Tensor) -> Tensor:
    """Return the same by any activation."""
    gate, up = gate_up.chunk(2, -1)
    return activation(gate).mul_(up)


@dataclass(frozen=True, slots=True)
class ClampedGate:
    """gpt-oss' gate, g sigmoid(alpha g) (u + 1), for rows that have gate and up projection by turns.

    First g is made at most `limit`, and u at most that far from zero.
    """

    alpha: float
    limit: float

    def __call__(self, gate_up: Tensor) -> Tensor:
        if row_steps.runs_in_c(gate_up) and gate_up.is_contiguous():
            return row_steps.clamped_gate(gate_up, self.alpha, self.limit)
        gate, up = gate_up[..., ::2].clamp(max=self.limit), gate_up[..., 1::2].clamp(-self.limit, self.limit)
        return (gate * self.alpha).sigmoid_().mul_(gate).mul_(up + 1)


def runs_in_c(gate: Gate) -> bool:
    """Return whether a gate is of those that `ext.matmul` has."""
    return gate is silu_gate or isinstance(gate, ClampedGate)


def gate_of(module: Any) -> Gate:
    """Return the gate of an MLP whose activation is a module of its own."""
    if isinstance(module, torch.nn.SiLU | SiLUActivation):
        return silu_gate
    return partial(gate_by, module.forward)  # whose own call would cost more than that


def experts_gate(module: Any, device: torch.device) -> Gate:
    """Return what a module of experts does between its products: a gate of ours if one agrees."""
    own = private.experts_activation(module)
    known: list[Gate] = [silu_gate]
    if hasattr(module, "alpha") and hasattr(module, "limit"):
        known.append(ClampedGate(module.alpha, module.limit))
    x = 6 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).to(device)
    return next((gate for gate in known if _agree(gate, own, x)), own)


def _agree(one: Gate, other: Gate, x: Tensor) -> bool:
    first, second = one(x), other(x.clone())
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-5)

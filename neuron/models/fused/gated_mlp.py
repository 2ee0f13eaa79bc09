"""The MLP with a gate (Shazeer 2020), with one product for gate and up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.activations import SiLUActivation

from ext import matmul
from neuron.models.fused.layer_kind import LayerKind, ModelFacts, Step
from neuron.models.linear import PackedLinear, pack_linear

_native: Any = matmul.load()


@dataclass(frozen=True, slots=True)
class GatedMlp(LayerKind):
    gate_up: PackedLinear
    activation: Callable[[Tensor], Tensor] | None  # None: silu
    down: PackedLinear

    def __call__(self, x: Tensor, _: Step) -> Tensor:
        return self.down(self._gated(self.gate_up(x)))

    def _gated(self, gate_up: Tensor) -> Tensor:
        if self.activation is None and _native and _is_plain(gate_up):
            return _silu_gated(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return (self.activation or silu)(gate).mul_(up)

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return self.gate_up, self.down


def _is_plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype is torch.float32 and x.is_contiguous()


def _silu_gated(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up, (rows, width), in one pass and on the products' threads."""
    rows, width = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    places = gate_up.data_ptr(), out.data_ptr()
    _native.silu_gate(matmul.instruction_set(), rows, width, *places, torch.get_num_threads())
    return out


def gated_mlp(module: Any, _: ModelFacts) -> GatedMlp:
    """Return the MLP of a module with `gate_proj`, `up_proj`, `down_proj` and `act_fn`, or LFM2's names."""
    if hasattr(module, "w1"):
        return GatedMlp(pack_linear([module.w1, module.w3]), None, pack_linear([module.w2]))
    return GatedMlp(
        gate_up=pack_linear([module.gate_proj, module.up_proj]),
        activation=_activation(module.act_fn),
        down=pack_linear([module.down_proj]),
    )


def _activation(module: Any) -> Callable[[Tensor], Tensor] | None:
    """Return what a module does, whose own call would cost more than that."""
    return None if isinstance(module, torch.nn.SiLU | SiLUActivation) else module.forward

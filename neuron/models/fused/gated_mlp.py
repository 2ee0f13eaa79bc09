"""The MLP with a gate (Shazeer 2020), with one product for gate and up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import silu

from neuron.models.fused.layer_kind import LayerKind, ModelFacts, Step
from neuron.models.linear import PackedLinear, pack_linear


@dataclass(frozen=True, slots=True)
class GatedMlp(LayerKind):
    gate_up: PackedLinear
    activation: Callable[[Tensor], Tensor]
    down: PackedLinear

    def __call__(self, x: Tensor, _: Step) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(self.activation(gate).mul_(up))

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return self.gate_up, self.down


def gated_mlp(module: Any, _: ModelFacts) -> GatedMlp:
    """Return the MLP of a module with `gate_proj`, `up_proj`, `down_proj` and `act_fn`, or LFM2's names."""
    if hasattr(module, "w1"):
        return GatedMlp(pack_linear([module.w1, module.w3]), silu, pack_linear([module.w2]))
    return GatedMlp(
        gate_up=pack_linear([module.gate_proj, module.up_proj]),
        activation=module.act_fn.forward,  # a module's own call costs more than the activation
        down=pack_linear([module.down_proj]),
    )

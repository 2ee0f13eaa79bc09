"""The MLP with a gate (Shazeer 2020), with one product for gate and up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neuron.models.fused.activation import Gate, gate_of, runs_in_c, silu_gate
from neuron.models.fused.layer_kind import LayerKind, ModelFacts, Step
from neuron.models.linear import PackedLinear, pack_linear


@dataclass(frozen=True, slots=True)
class GatedMlp(LayerKind):
    gate_up: PackedLinear
    gate: Gate
    down: PackedLinear

    def __call__(self, x: Tensor, _: Step) -> Tensor:
        return self.down(self.gate(self.gate_up(x)))

    @property
    def mixes_tokens(self) -> bool:
        return False

    @property
    def is_recordable(self) -> bool:
        return runs_in_c(self.gate)

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return self.gate_up, self.down


def gated_mlp(module: Any, _: ModelFacts) -> GatedMlp:
    """Return the MLP of a module with `gate_proj`, `up_proj`, `down_proj` and `act_fn`, or LFM2's names."""
    if hasattr(module, "w1"):
        return GatedMlp(pack_linear([module.w1, module.w3]), silu_gate, pack_linear([module.w2]))
    return GatedMlp(
        gate_up=pack_linear([module.gate_proj, module.up_proj]),
        gate=gate_of(module.act_fn),
        down=pack_linear([module.down_proj]),
    )

"""Mixtures of experts (Shazeer et al. 2017): each token goes through a few MLPs of many.

transformers' own router chooses them, whatever its rule. What follows is the same for all: rows are sorted by
expert, multiplied, and summed with the router's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuron.models import private
from neuron.models.fused.gated_mlp import gated_mlp
from neuron.models.fused.layer_kind import LayerKind, ModelFacts, Step
from neuron.models.linear import (
    GroupedLinear,
    PackedLinear,
    pack_experts,
    pack_linear,
    take_experts_matrix,
)
from neuron.models.matrix import Groups

Router = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  # to logits, weights and experts


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of a layer, with the signature of transformers' modules."""

    up: GroupedLinear  # with the gate, if they have one
    activation: Callable[[Tensor], Tensor]
    down: GroupedLinear

    def __call__(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return each token's sum over its `chosen` experts with `weights`, both (tokens, k)."""
        experts, order = chosen.flatten().sort(stable=True)
        groups = Groups(experts, self.up.num_experts)
        rows = x.index_select(0, order.div(chosen.shape[1], rounding_mode="floor"))
        rows = self.down(self.activation(self.up(rows, groups)), groups)
        unsorted = rows.index_select(0, order.argsort()).view(*chosen.shape, -1)
        return torch.bmm(weights.unsqueeze(1).to(rows.dtype), unsorted).squeeze(1)

    @property
    def is_capturable(self) -> bool:
        return self.up.is_capturable and self.down.is_capturable


def take_experts(module: Any) -> Experts:
    """Return the experts of a module of transformers that holds the weights of all in one tensor each."""
    up = "gate_up_proj" if module.has_gate else "up_proj"
    return Experts(
        up=pack_experts(take_experts_matrix(module, up)),
        activation=private.experts_activation(module),
        down=pack_experts(take_experts_matrix(module, "down_proj")),
    )


@dataclass(frozen=True, slots=True)
class MixtureOfExperts(LayerKind):
    route: Router
    experts: Experts

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        _, weights, chosen = self.route(x)
        return self.experts(x, chosen, weights)

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return ()  # none that all tokens go through

    @property
    def is_capturable(self) -> bool:
        return self.experts.is_capturable


@dataclass(frozen=True, slots=True)
class SharedExperts(LayerKind):
    """A mixture of experts beside an MLP that all tokens go through."""

    routed: MixtureOfExperts
    shared: LayerKind

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        return self.routed(x, step).add_(self.shared(x, step))

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return self.shared.linears

    @property
    def is_capturable(self) -> bool:
        return self.routed.is_capturable


@dataclass(frozen=True, slots=True)
class Weighed(LayerKind):
    """An MLP whose result each token takes as much of as a gate says."""

    mlp: LayerKind
    gate: PackedLinear  # to (tokens, 1)

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        return self.mlp(x, step).mul_(self.gate(x).sigmoid_())

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return *self.mlp.linears, self.gate


def mlp(module: Any, facts: ModelFacts) -> LayerKind:
    """Return the MLP of a layer, or its mixture of experts if it has one."""
    if not hasattr(module, "experts"):
        return gated_mlp(module, facts)
    routed = MixtureOfExperts(_router(module, facts), take_experts(module.experts))
    shared = getattr(module, "shared_experts", None) or getattr(module, "shared_expert", None)
    if shared is None:
        return routed
    always: LayerKind = gated_mlp(shared, facts)
    if gate := getattr(module, "shared_expert_gate", None):
        always = Weighed(always, pack_linear([gate]))
    return SharedExperts(routed, always)


def _router(module: Any, facts: ModelFacts) -> Router:
    router = module.gate if hasattr(module, "gate") else module.router
    if facts.activations != facts.dtype:
        router.to(facts.activations)
    if hasattr(module, "e_score_correction_bias"):  # kept beside the router that asks for it
        return partial(router.forward, e_score_correction_bias=module.e_score_correction_bias)
    if getattr(module, "use_expert_bias", False):  # the same by another name
        return partial(router.forward, expert_bias=module.expert_bias)
    route: Router = router.forward
    return route

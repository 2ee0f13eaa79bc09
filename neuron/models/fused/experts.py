"""Mixtures of experts (Shazeer et al. 2017): each token goes through a few MLPs of many.

A `router` chooses them. What follows is the same for all: rows are sorted by expert, multiplied, and summed
with the router's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuron.device import expert_steps, row_steps
from neuron.models.fused.activation import Gate, experts_gate, runs_in_c
from neuron.models.fused.gated_mlp import gated_mlp
from neuron.models.fused.layer_kind import LayerKind, ModelFacts, Step
from neuron.models.fused.router import Router, RuledRouter, find_router
from neuron.models.grouped_linear import GroupedLinear, pack_experts
from neuron.models.linear import PackedLinear, pack_linear, take_experts_matrix
from neuron.models.matrix import Groups
from neuron.models.tensor_parallel.spread import FIRST_EXPERT


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of a layer, with the signature of transformers' modules."""

    up: GroupedLinear  # with the gate, if they have one
    gate: Gate
    down: GroupedLinear
    first: int | None = None  # the number of the first, where other ranks have others; None: all are here

    def __call__(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return each token's sum over its `chosen` experts with `weights`, both (tokens, k)."""
        is_known = row_steps.runs_in_c(x) and x.is_contiguous() and chosen.dtype is torch.int64
        if is_known and (self.first is None or self._is_grouped):
            return self._in_c(x, chosen.contiguous(), weights.float().contiguous())
        if self.first is not None:
            return self._of_those_here(x, chosen, weights, self.first)
        experts, order = chosen.flatten().sort(stable=True)
        rows = x.index_select(0, order.div(chosen.shape[1], rounding_mode="floor"))
        rows = self._multiplied(rows, Groups(experts, self.up.num_experts))
        unsorted = rows.index_select(0, order.argsort()).view(*chosen.shape, -1)
        return torch.bmm(weights.unsqueeze(1).to(rows.dtype), unsorted).squeeze(1)

    def _of_those_here(self, x: Tensor, chosen: Tensor, weights: Tensor, first: int) -> Tensor:
        local = chosen - first
        tokens, places = ((local >= 0) & (local < self.up.num_experts)).nonzero(as_tuple=True)
        experts, order = local[tokens, places].sort(stable=True)
        tokens, places = tokens[order], places[order]
        out = torch.zeros_like(x)
        if not len(tokens):
            return out
        rows = self._multiplied(x.index_select(0, tokens), Groups(experts, self.up.num_experts))
        return out.index_add_(0, tokens, rows * weights[tokens, places, None].to(rows.dtype))

    def _in_c(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        group = expert_steps.group(chosen, self.up.num_experts, self.first or 0)
        groups = Groups(group.experts, self.up.num_experts, group.ends)
        rows = self._multiplied(row_steps.gather(x, group.sources), groups)
        return expert_steps.weighted_sum(rows, group.spots, weights)

    def _multiplied(self, rows: Tensor, groups: Groups) -> Tensor:
        return self.down(self.gate(self.up(rows, groups)), groups)

    @property
    def is_capturable(self) -> bool:
        return self.first is None and self._is_grouped

    @property
    def is_recordable(self) -> bool:
        return self._is_grouped and runs_in_c(self.gate)

    @property
    def _is_grouped(self) -> bool:
        """Whether each of its products is one for all experts."""
        return self.up.is_capturable and self.down.is_capturable


def take_experts(module: Any, device: torch.device) -> Experts:
    """Return the experts of a module of transformers that holds the weights of all in one tensor each."""
    gate = experts_gate(module, device)
    up = "gate_up_proj" if module.has_gate else "up_proj"
    return Experts(
        up=pack_experts(take_experts_matrix(module, up)),
        gate=gate,
        down=pack_experts(take_experts_matrix(module, "down_proj")),
        first=getattr(module, FIRST_EXPERT, None),
    )


@dataclass(frozen=True, slots=True)
class MixtureOfExperts(LayerKind):
    route: Router
    experts: Experts

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        weights, chosen = self.route(x)
        return self.experts(x, chosen, weights)

    @property
    def mixes_tokens(self) -> bool:
        return False

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return ()  # none that all tokens go through

    @property
    def is_capturable(self) -> bool:
        return self.experts.is_capturable

    @property
    def is_recordable(self) -> bool:
        return isinstance(self.route, RuledRouter) and self.experts.is_recordable


@dataclass(frozen=True, slots=True)
class SharedExperts(LayerKind):
    """A mixture of experts beside an MLP that all tokens go through."""

    routed: MixtureOfExperts
    shared: LayerKind

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        return row_steps.add(self.shared(x, step), self.routed(x, step))

    @property
    def mixes_tokens(self) -> bool:
        return False

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return self.shared.linears

    @property
    def is_capturable(self) -> bool:
        return self.routed.is_capturable

    @property
    def is_recordable(self) -> bool:
        return self.routed.is_recordable and self.shared.is_recordable


@dataclass(frozen=True, slots=True)
class Weighed(LayerKind):
    """An MLP whose result each token takes as much of as a gate says."""

    mlp: LayerKind
    gate: PackedLinear  # to (tokens, 1)

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        return row_steps.scale_by_sigmoid(self.mlp(x, step), self.gate(x))

    @property
    def is_recordable(self) -> bool:
        return self.mlp.is_recordable

    @property
    def mixes_tokens(self) -> bool:
        return False

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return *self.mlp.linears, self.gate


def mlp(module: Any, facts: ModelFacts) -> LayerKind:
    """Return the MLP of a layer, or its mixture of experts if it has one."""
    if not hasattr(module, "experts"):
        return gated_mlp(module, facts)
    routed = MixtureOfExperts(find_router(module, facts), take_experts(module.experts, facts.device))
    shared = getattr(module, "shared_experts", None) or getattr(module, "shared_expert", None)
    if shared is None:
        return routed
    always: LayerKind = gated_mlp(shared, facts)
    if gate := getattr(module, "shared_expert_gate", None):
        always = Weighed(always, pack_linear([gate]))
    return SharedExperts(routed, always)

"""Routers: through which experts each token goes, and with what weights.

transformers' own are some ten operations of torch each. Those of the table are one product and one call of
`ext.matmul` where it runs, once they have been seen to choose alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuron.device.expert_steps import RoutingRule, Scores, choose
from neuron.device.row_steps import runs_in_c
from neuron.models.fused.layer_kind import ModelFacts
from neuron.models.linear import matrix_of
from neuron.models.matrix import Product

log = logging.getLogger("neuron.models")

Router = Callable[[Tensor], tuple[Tensor, Tensor]]  # to weights and experts, (tokens, chosen) each

_TRIED_ROWS = 16


@dataclass(frozen=True, slots=True)
class RuledRouter:
    logits: Product
    rule: RoutingRule

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return choose(self.rule, self.logits(x))


def find_router(module: Any, facts: ModelFacts) -> Router:
    """Return the router of transformers' module of a mixture of experts."""
    router = module.gate if hasattr(module, "gate") else module.router
    if facts.activations != facts.dtype:
        router.to(facts.activations)
    own = partial(_own, _forward(module, router))
    rule = _RULES[facts.config.model_type](router, module) if facts.config.model_type in _RULES else None
    like = torch.empty(0, dtype=facts.activations, device=facts.device)
    if rule is None or not rule.runs_in_c or not runs_in_c(like):
        return own
    ruled = RuledRouter(matrix_of(router.weight, getattr(router, "bias", None)).product(), rule)
    if _choose_alike(ruled, own, rule.experts, router.weight.shape[-1]):
        return ruled
    log.warning("experts are chosen by transformers' router: the rule of its family gives others")
    return own


def _own(forward: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
    _, weights, experts = forward(x)
    return weights, experts


def _forward(module: Any, router: Any) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    if hasattr(module, "e_score_correction_bias"):  # kept beside the router that asks for it
        return partial(router.forward, e_score_correction_bias=module.e_score_correction_bias)
    if getattr(module, "use_expert_bias", False):  # the same by another name
        return partial(router.forward, expert_bias=module.expert_bias)
    forward: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] = router.forward
    return forward


def _choose_alike(one: Router, other: Router, experts: int, hidden: int) -> bool:
    """Return whether two routers give some tokens the same experts with the same weights."""
    x = torch.randn(_TRIED_ROWS, hidden, generator=torch.Generator().manual_seed(0))
    first, second = (
        torch.zeros(_TRIED_ROWS, experts).scatter_(1, chosen, weights.float())
        for weights, chosen in (one(x), other(x))
    )
    return torch.allclose(first, second, rtol=1e-4, atol=1e-6)


# --- the table --------------------------------------------------------------------------------------------


def _softmax(router: Any, _: Any) -> RoutingRule:
    eps = 0.0 if getattr(router, "norm_topk_prob", True) else None
    return RoutingRule(router.num_experts, router.top_k, Scores.SOFTMAX_OF_ALL, eps=eps)


def _chosen_softmax(router: Any, _: Any) -> RoutingRule:
    return RoutingRule(router.num_experts, router.top_k, Scores.SOFTMAX_OF_CHOSEN)


def _grouped(scores: Scores, router: Any, _: Any) -> RoutingRule:
    bias = getattr(router, "e_score_correction_bias", None)
    return RoutingRule(
        *(router.num_experts, router.top_k, scores, None if bias is None else bias.float()),
        groups=router.num_group,
        kept=router.topk_group,
        best=2,
        eps=1e-20 if router.norm_topk_prob else None,
        factor=router.routed_scaling_factor,
    )


def _deepseek_v2(router: Any, _: Any) -> RoutingRule | None:
    rule = partial(RoutingRule, router.num_experts, router.top_k, Scores.SOFTMAX_OF_ALL)
    if router.topk_method == "greedy":
        return rule(factor=router.routed_scaling_factor)
    return rule(groups=router.num_group, kept=router.topk_group, factor=router.routed_scaling_factor)


def _minimax_m2(router: Any, module: Any) -> RoutingRule:
    bias = module.e_score_correction_bias.float()
    return RoutingRule(router.num_experts, router.top_k, Scores.SIGMOIDS, bias, eps=0.0)


def _hy_v3(router: Any, module: Any) -> RoutingRule:
    bias, factor = module.e_score_correction_bias.float(), router.router_scaling_factor
    return RoutingRule(router.num_experts, router.top_k, Scores.SIGMOIDS, bias, eps=1e-20, factor=factor)


def _lfm2_moe(router: Any, module: Any) -> RoutingRule:
    bias = module.expert_bias.float() if router.use_expert_bias else None
    eps = 1e-6 if router.norm_topk_prob else None
    rule = partial(RoutingRule, router.num_experts, router.top_k, Scores.SIGMOIDS, bias)
    return rule(eps=eps, factor=router.routed_scaling_factor)


_GROUPED_SIGMOIDS = partial(_grouped, Scores.SIGMOIDS)
_RULES: dict[str, Callable[[Any, Any], RoutingRule | None]] = {
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _GROUPED_SIGMOIDS,
    "dots1": _GROUPED_SIGMOIDS,
    "glm4_moe": _GROUPED_SIGMOIDS,
    "glm4_moe_lite": _GROUPED_SIGMOIDS,
    "gpt_oss": _chosen_softmax,
    "hy_v3": _hy_v3,
    "lfm2_moe": _lfm2_moe,
    "minimax_m2": _minimax_m2,
    "mistral4": partial(_grouped, Scores.SOFTMAX_OF_ALL),
    "mixtral": _softmax,
    "olmoe": _softmax,
    "qwen2_moe": _softmax,
    "qwen3_5_moe_text": _softmax,
    "qwen3_moe": _softmax,
    "qwen3_next": _softmax,
    "solar_open": _GROUPED_SIGMOIDS,
}

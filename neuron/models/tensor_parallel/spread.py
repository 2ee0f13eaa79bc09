"""Experts that are spread: each is whole on one rank, and every rank's router chooses among all.

Our own decoder computes with them (`neuron.models.fused.experts`). transformers' class is built with a rank's
experts alone, for their weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FIRST_EXPERT = "first_expert"  # of a module of experts, which it is set on


def class_with_experts(model_class: Any, experts: range) -> Any:
    """Return transformers' class with some of its experts alone."""

    def make(self: nn.Module, *args: Any, **options: Any) -> None:
        model_class.__init__(self, *args, **options)
        for module in self.modules():
            if hasattr(module, "num_experts") and hasattr(module, "down_proj"):
                _keep(module, experts)

    names = {"__init__": make, "__module__": model_class.__module__, "whole_class": model_class}
    return type(model_class.__name__, (model_class,), names)


def whole_class(model_class: Any) -> Any:
    """Return the class with all experts."""
    return getattr(model_class, "whole_class", model_class)


def _keep(module: Any, experts: range) -> None:
    for name, parameter in [*module.named_parameters(recurse=False)]:
        if len(parameter) == module.num_experts:
            kept = parameter.detach()[: len(experts)].clone()
            setattr(module, name, nn.Parameter(kept, requires_grad=False))
    module.num_experts = len(experts)
    setattr(module, FIRST_EXPERT, experts.start)
    module.forward = _nothing


def _nothing(x: Tensor, *_: object) -> Tensor:
    """Stand in for what our own decoder computes with the module's weights."""
    return torch.zeros_like(x)

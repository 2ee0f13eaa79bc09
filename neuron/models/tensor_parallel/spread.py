"""What of a rank's part no configuration says: transformers' class is built whole, and its modules are cut.

Experts that are spread are each whole on one rank, and every rank's router chooses among all; our own decoder
computes with them (`neuron.models.fused.experts`). Short convolutions have some of their channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

FIRST_EXPERT = "first_expert"  # of a module of experts, which it is set on


def class_with_experts(model_class: Any, experts: range) -> Any:
    """Return transformers' class with some of its experts alone."""

    def cut(module: nn.Module) -> None:
        if hasattr(module, "num_experts") and hasattr(module, "down_proj"):
            _keep(module, experts)

    return _class_in_part(model_class, cut)


def class_with_channels(model_class: Any, channels: int) -> Any:
    """Return transformers' class with so many channels in each short convolution like LFM2's."""

    def cut(module: Any) -> None:
        if isinstance(getattr(module, "conv", None), nn.Conv1d):
            _narrow(module, channels)

    return _class_in_part(model_class, cut)


def _class_in_part(model_class: Any, cut: Callable[[nn.Module], None]) -> Any:
    def make(self: nn.Module, *args: Any, **options: Any) -> None:
        model_class.__init__(self, *args, **options)
        for module in [*self.modules()]:
            cut(module)

    names = {"__init__": make, "__module__": model_class.__module__, "whole_class": model_class}
    return type(model_class.__name__, (model_class,), names)


def whole_class(model_class: Any) -> Any:
    """Return the class with all experts and channels."""
    return getattr(model_class, "whole_class", model_class)


def _narrow(module: Any, channels: int) -> None:
    weight, kernel = module.in_proj.weight, module.conv.kernel_size[0]
    hidden, has_bias = weight.shape[1], module.in_proj.bias is not None
    like: dict[str, Any] = {"bias": has_bias, "device": weight.device, "dtype": weight.dtype}
    module.in_proj = nn.Linear(hidden, len(weight) // hidden * channels, **like)
    module.conv = nn.Conv1d(channels, channels, kernel, groups=channels, padding=kernel - 1, **like)
    module.out_proj = nn.Linear(channels, hidden, **like)


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

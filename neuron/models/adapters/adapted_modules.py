"""Adapters for the linear modules of a model that transformers' own code runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuron.models.adapters.adapted_linear import AdaptedLinear
from neuron.models.adapters.bank import AdapterBank
from neuron.models.matrix import ModuleOutputs


def adapt_modules(model: Any) -> AdapterBank:
    """Return a bank of adapters for the linear modules of a model's layers for text.

    Each of these must be called with the whole flat batch, which modules of experts are not.
    """
    layers = {id(module) for module in model.get_decoder().modules()}
    adapted: list[AdaptedLinear] = []
    for name, module in model.named_modules():
        is_text = id(module) in layers and ".layers." in f".{name}" and ".experts" not in name
        if is_text and isinstance(module, torch.nn.Linear):
            adapted.append(AdaptedLinear([ModuleOutputs(name, module.out_features)], module.in_features))
            module.register_forward_hook(_Hook(adapted[-1]))
    return AdapterBank(adapted, model.dtype, model.device)


class _Hook:
    def __init__(self, adapted: AdaptedLinear) -> None:
        self._adapted = adapted

    def __call__(self, _: object, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if not self._adapted.is_used:
            return out
        return self._adapted.add_to(out.flatten(0, -2), inputs[0].flatten(0, -2)).view(out.shape)

"""Linear layers of transformers' modules in oneDNN's layout, in which a CPU multiplies many rows faster."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuron.models import private
from neuron.models.stored_weight import StoredWeight

_ROWS = 512  # of a step, for which the layout is chosen


class _PackedLayer(nn.Module):
    """Takes the place of a linear layer, without a weight of its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._multiply = private.onednn_linear(layer.weight, layer.bias, _ROWS)

    def forward(self, x: Tensor) -> Tensor:
        return self._multiply(x)


def pack_layers(model: nn.Module) -> Callable[[], None]:
    """Pack the linear layers of a model on a CPU, where that is of use; return what undoes it."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and _is_faster(layer.weight):
                setattr(parent, name, _PackedLayer(layer))
                replaced.append((parent, name, layer))

    def undo() -> None:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)

    return undo


def _is_faster(weight: Tensor) -> bool:
    is_plain = not isinstance(weight, StoredWeight) and weight.device.type == "cpu"
    return is_plain and weight.dtype is torch.float32 and private.onednn_multiplies(weight.dtype)

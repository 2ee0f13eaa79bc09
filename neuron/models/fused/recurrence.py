from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuron.device.convolution import tail_shape
from neuron.device.state_pool import StateName, StateShape
from neuron.models.fused.layer_kind import LayerKind
from neuron.models.linear import PackedLinear


def tail_of(layer: int) -> StateName:
    return StateName(layer, "conv", 0)


def memory_of(layer: int) -> StateName:
    return StateName(layer, "recurrent", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence(LayerKind):
    """What recurrences behind a short convolution have in common: linear layers and two states."""

    layer: int
    dtype: torch.dtype  # of the convolution's tail
    inputs: PackedLinear
    convolution: Tensor  # (kernel, channels)
    out: PackedLinear

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return self.inputs, self.out

    @property
    def tail(self) -> StateName:
        return tail_of(self.layer)

    @property
    def memory(self) -> StateName:
        return memory_of(self.layer)

    @property
    @abstractmethod
    def memory_shape(self) -> tuple[int, int, int]:
        """Heads, and the dimensions of their keys and values."""

    @property
    def states(self) -> Mapping[StateName, StateShape]:
        memory = StateShape(self.memory_shape, torch.float32)
        return {self.tail: tail_shape(self.convolution, self.dtype), self.memory: memory}

"""What every kind of layer has: the seam between the decoder and its parts.

A kind is a small frozen class and a function that builds it from a module of transformers, whose weights it
takes. It computes a part of a layer without the norms and the sum around it, which are the same for all:
`Residual`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuron.device import row_steps
from neuron.device.collective import sum_ranks
from neuron.device.kv_cache import KVShape
from neuron.device.state_pool import StateName, StateShape
from neuron.models.fused.norm import Norm, NormBuilder, RmsNorm
from neuron.models.fused.rotation import Rotation
from neuron.models.linear import PackedLinear
from neuron.models.probe import Probe


@dataclass(frozen=True, slots=True)
class Step:
    """What the parts of a decoder share in one forward pass.

    Pages are behind `neuron.device.attention.attend`, states behind `neuron.device.state_pool.state_groups`.
    """

    positions: Tensor  # (tokens,)
    rotation: Rotation | None  # None of a model without rotary embeddings


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What kinds are built from besides their own module."""

    config: Any  # transformers', of the part for text
    probe: Probe
    norm: NormBuilder
    dtype: torch.dtype  # of weights, and of what attention stores
    activations: torch.dtype  # of everything between linear layers
    device: torch.device


class LayerKind(ABC):
    """One part of a layer: attention, a recurrence, or an MLP."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """Return (tokens, hidden) for normed activations of that shape; the caller may change the result."""

    @property
    @abstractmethod
    def linears(self) -> Sequence[PackedLinear]:
        """Its linear layers, in the order in which they run."""

    @property
    def kv_shapes(self) -> Mapping[int, KVShape]:
        """What it stores of each token in pages, by layer."""
        return {}

    @property
    def states(self) -> Mapping[StateName, StateShape]:
        """What it keeps of a whole sequence."""
        return {}

    @property
    def mixes_tokens(self) -> bool:
        """Whether what it makes of a token depends on others."""
        return True

    @property
    def is_capturable(self) -> bool:
        """Whether batches of one size run the same operations on the same tensors."""
        return True

    @property
    def is_recordable(self) -> bool:
        """Whether one token of each sequence runs by the operations of `ext.matmul` alone, in float32."""
        return False


Builder = Callable[[Any, ModelFacts], LayerKind]  # of transformers' module; it takes the module's weights


@dataclass(frozen=True, slots=True)
class Residual:
    """A part of a layer with what is around it: its input plus what it makes of it."""

    kind: LayerKind
    before: Norm | None
    after: Norm | None
    is_split: bool = False  # over the ranks of a group: it makes a part of the sum

    @property
    def is_recordable(self) -> bool:
        norms = (self.before, self.after)
        return self.kind.is_recordable and all(n is None or isinstance(n, RmsNorm) for n in norms)

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        out = self.kind(self.before(x) if self.before else x, step)
        if self.is_split:
            out = sum_ranks(out)
        out = self.after(out) if self.after else out
        return row_steps.add(x, out)

"""The adapters that are loaded over one model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch

from neuron.models.adapters.adapted_linear import AdaptedLinear
from neuron.models.adapters.adapted_rows import AdaptedRows, use_adapted_rows
from neuron.models.adapters.lora_file import LoraAdapter, LowRank, unfit
from neuron.models.matrix import ModuleOutputs

_LAYER = re.compile(r".*?\b(layers\.\d+\..+)")


class AdapterBank:
    """Adapters by number, in the type of the model's weights.

    A linear layer has room for the next power of two of them.
    """

    def __init__(self, linears: Iterable[AdaptedLinear], dtype: torch.dtype, device: torch.device) -> None:
        self._linears = [linear for linear in linears if linear.origins]
        self._targets: dict[str, tuple[AdaptedLinear, ModuleOutputs]] = {
            origin.module: (linear, origin) for linear in self._linears for origin in linear.origins
        }
        self._short_names = {_short(module): module for module in self._targets}
        self._like = torch.empty(0, dtype=dtype, device=device)
        self._numbers: set[int] = set()
        self._capacity = 0

    @property
    def num_bytes(self) -> int:
        return sum(linear.num_bytes for linear in self._linears)

    def add(self, adapter: LoraAdapter, number: int) -> None:
        """Take on an adapter by a number that none has. Raises ModelLoadError if it doesn't fit the model."""
        weights = {self._fitting(adapter, module): weight for module, weight in adapter.weights.items()}
        while self._capacity <= number:
            self._capacity = max(1, 2 * self._capacity)
        for linear in self._linears:
            linear.set(number, self._capacity, weights, self._like)
        self._numbers.add(number)

    def remove(self, number: int) -> None:
        """Drop an adapter that no running request has."""
        self._numbers.discard(number)
        if not self._numbers:
            self._capacity = 0
            for linear in self._linears:
                linear.clear()

    def applied(self, adapters: Sequence[int | None]) -> AbstractContextManager[None]:
        """Let linear layers apply adapters inside the block, given the number of that of each row of a flat
        batch."""
        return use_adapted_rows(AdaptedRows(adapters, self._capacity, self._like.device))

    def _fitting(self, adapter: LoraAdapter, module: str) -> str:
        """Return this model's name of a module that the adapter changes."""
        name = module if module in self._targets else self._short_names.get(_short(module), "")
        if name not in self._targets:
            raise unfit(adapter, f"it changes {module}, for which this model takes no adapter")
        linear, origin = self._targets[name]
        weight: LowRank = adapter.weights[module]
        found, wanted = (len(weight.up), weight.down.shape[1]), (origin.outputs, linear.in_features)
        if found != wanted:
            cause = f"it changes {module} as a matrix of {_size(found)}, which here is {_size(wanted)}"
            raise unfit(adapter, cause, ["load it over its own base model"])
        return name


def _short(module: str) -> str:
    """Return a module's name from its layer on: what is before that differs with the class that is around."""
    found = _LAYER.fullmatch(module)
    return found[1] if found else module


def _size(shape: tuple[int, int]) -> str:
    return " x ".join(map(str, shape))

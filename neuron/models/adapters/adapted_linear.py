"""What the adapters of a model add to one linear layer, for the rows of all of them at once.

The adapters' matrices are stacked like those of experts: each row of a step goes through its own adapter's,
in one product for all (segmented products: Chen et al. 2023, "Punica: Multi-Tenant LoRA Serving").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from neuron.models.adapters.adapted_rows import adapted_rows
from neuron.models.adapters.lora_file import LowRank
from neuron.models.formats.floats import FLOATS
from neuron.models.grouped_linear import GroupedLinear, pack_experts
from neuron.models.matrix import Matrix, ModuleOutputs

_RANK_MULTIPLE = 8  # of CUDA's products


class AdaptedLinear:
    """The adapters of a linear layer. Its outputs are, one after the other, those of `origins`.

    Several modules that have the same input share `down`, each with ranks of its own.
    """

    def __init__(self, origins: Sequence[ModuleOutputs], in_features: int) -> None:
        self.origins = tuple(origins)
        self.in_features = in_features
        self._outputs = sum(origin.count for origin in origins)
        self._modules: list[str] = []  # that some adapter changes
        self._down: Tensor | None = None  # (adapters, modules, rank, in)
        self._up: Tensor | None = None  # (adapters, out, modules, rank)
        self._products: tuple[GroupedLinear, GroupedLinear] | None = None

    @property
    def num_bytes(self) -> int:
        return sum(stack.nbytes for stack in (self._down, self._up) if stack is not None)

    @property
    def is_used(self) -> bool:
        """Whether an adapter changes it."""
        return self._products is not None

    def set(self, number: int, capacity: int, weights: Mapping[str, LowRank], like: Tensor) -> None:
        """Take on adapter `number` of at most `capacity`; `weights` has those of all modules it changes.

        They are stored on the device of `like`, and in its dtype if that is multiplied well.
        """
        modules = list(dict.fromkeys(origin.module for origin in self.origins if origin.module in weights))
        if not modules and self._down is None:
            return
        rank = max((len(weights[module].down) for module in modules), default=1)
        self._modules += [module for module in modules if module not in self._modules]
        down, up = self._reserve(capacity, rank, like)
        down[number], up[number] = 0, 0
        for module in modules:
            weight, at = weights[module], self._modules.index(module)
            down[number, at, : len(weight.down)] = weight.down
            start = 0
            for origin in self.origins:
                if origin.module == module:
                    rows = weight.up if origin.rows is None else weight.up[origin.rows]
                    up[number, start : start + origin.count, at, : len(weight.down)] = rows
                start += origin.count
        ranks = down.shape[1] * down.shape[2]
        self._products = (
            pack_experts(Matrix(FLOATS, (down.flatten(1, 2),), None, self.in_features)),
            pack_experts(Matrix(FLOATS, (up.flatten(2, 3),), None, ranks)),
        )

    def _reserve(self, capacity: int, rank: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return stacks with room for so many adapters of that rank, with what the old ones hold."""
        rank = -(-rank // _RANK_MULTIPLE) * _RANK_MULTIPLE
        modules, down, up = len(self._modules), self._down, self._up
        if down is not None:
            rank = max(rank, down.shape[2])
        shape = capacity, modules, rank, self.in_features
        if down is not None and up is not None and down.shape == shape:
            return down, up
        # So few columns are multiplied best in float32 on a CPU.
        dtype = torch.float32 if like.device.type == "cpu" else like.dtype
        self._down = like.new_zeros(shape)
        self._up = like.new_zeros(capacity, self._outputs, modules, rank, dtype=dtype)
        if down is not None and up is not None:
            count, known, width = down.shape[:3]
            self._down[:count, :known, :width] = down
            self._up[:count, :, :known, :width] = up
        return self._down, self._up

    def clear(self) -> None:
        """Drop all adapters."""
        self._modules.clear()
        self._down = self._up = self._products = None

    def add_to(self, out: Tensor, x: Tensor) -> Tensor:
        """Return `out`, (tokens, out), changed by the adapters of the rows of `x`, (tokens, in)."""
        rows = adapted_rows()
        if rows is None or self._products is None:
            return out
        if x.shape[0] != rows.count:
            raise RuntimeError(f"adapters for {rows.count} rows meet {len(x)} in {self._modules[0]}")
        down, up = self._products
        added = up(down(rows.take(x), rows.groups), rows.groups).to(out.dtype)
        return rows.add(added, out)

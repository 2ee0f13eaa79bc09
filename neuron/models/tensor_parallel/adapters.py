"""A rank's part of a LoRA adapter: what it adds to the part of each weight that the rank has.

Of s B A, rows of the weight are rows of B, and columns of it columns of A. So what a layer with a part of the
outputs adds is right where it is, and what one with a part of the inputs adds is a part of the layer's sum.
"""

from __future__ import annotations

from dataclasses import replace

from neuron.models.adapters.lora_file import LoraAdapter, LowRank
from neuron.models.tensor_parallel.checkpoint import RankPart
from neuron.models.tensor_parallel.tensors import cut_ranges, take_ranges


def split_adapter(adapter: LoraAdapter, part: RankPart) -> LoraAdapter:
    """Return the rank's part of an adapter for the whole model.

    What does not fit that stays as it is, and fits no part either.
    """
    weights = {module: _split(module, weight, part) for module, weight in adapter.weights.items()}
    return replace(adapter, weights=weights)


def _split(module: str, weight: LowRank, part: RankPart) -> LowRank:
    shape = len(weight.up), weight.down.shape[1]
    cut = part.cutter.cut(f"{module}.weight", shape)
    ranges = cut_ranges(shape[cut.dim], cut, part.cutter, part.rank, part.widths) if cut else None
    if cut is None or ranges is None:
        return weight
    if cut.is_columns:
        return weight._replace(down=take_ranges(weight.down, 1, ranges))
    return weight._replace(up=take_ranges(weight.up, 0, ranges))

"""A checkpoint of one rank's part of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from neuron.models.architecture import read_config
from neuron.models.checkpoint import Checkpoint, ModelLoadError
from neuron.models.in_situ.quantization import format_of
from neuron.models.tensor_parallel.parts import find_parts
from neuron.models.tensor_parallel.recurrence import CHANNELS
from neuron.models.tensor_parallel.sizes import EXPERTS, Rank, rank_values, split_sizes, spread_sizes
from neuron.models.tensor_parallel.tensors import Bounds, Cutter, Order, part_entry, width_bounds

_ORDERS = {"gpt_oss": Order.INPUTS_FIRST_IN_TURNS, "llama4_text": Order.INPUTS_FIRST}


@dataclass(frozen=True, slots=True)
class RankPart:
    """What a load must know of the model that it loads a part of."""

    rank: Rank
    whole: Checkpoint
    cutter: Cutter
    widths: Mapping[str, Bounds]  # which part of each width it has

    @property
    def experts(self) -> range | None:
        """Return those that it has, if each is whole on one rank."""
        sizes = self.cutter.sizes
        return range(*sizes.bounds(EXPERTS, self.rank)) if sizes.experts else None

    @property
    def channels(self) -> int | None:
        """Return how many it has of each short convolution, if those are split."""
        recurrence = self.cutter.sizes.recurrence
        if recurrence is None or CHANNELS not in recurrence.counts:
            return None
        start, stop = self.cutter.sizes.bounds(CHANNELS, self.rank)
        return stop - start


def split_checkpoint(
    checkpoint: Checkpoint, rank: Rank, quant: str | None = None, *, makes_embeddings: bool = False
) -> tuple[Checkpoint, RankPart]:
    """Return the checkpoint of one rank's part, and what it is a part of.

    With `quant` it is going to be quantized, so widths are cut between whole blocks of that. Raises
    ModelLoadError, which names file and key or tensor, for what cannot be split.
    """
    if rank.size == 1:
        raise ValueError("one device has all of a model")
    file = checkpoint.config_file
    if makes_embeddings:
        cause = f"{file}: it makes embeddings, on one device; load it without tensor_parallel"
        raise ModelLoadError("model_unsupported", cause)
    config: Any = read_config(checkpoint).get_text_config(decoder=True)
    parts = find_parts(config, file)
    sizes = split_sizes(config, parts, rank.size, file)
    cutter = Cutter(parts, sizes, _ORDERS.get(config.model_type, Order.OUTPUTS_FIRST))
    units = {key: _unit(quant, width) for key, width in sizes.widths.items()} if quant else {}
    try:
        widths = width_bounds(checkpoint.tensors, cutter, rank, units)
    except ModelLoadError:
        shares = any(".shared_" in name for name in checkpoint.tensors)
        spread = spread_sizes(config, sizes, rank.size, shares=shares)
        if spread is None:
            raise
        sizes = spread
        cutter = replace(cutter, sizes=sizes)
        widths = width_bounds(checkpoint.tensors, cutter, rank, units)
    tensors = {name: e for name, e in checkpoint.tensors.items() if not cutter.is_elsewhere(name, rank)}
    biases = []
    for name, entry in tuple(tensors.items()):
        if cut := cutter.cut(name, entry.shape):
            tensors[name] = part_entry(name, entry, cut, cutter, rank, widths)
            biases += [name] if cut.is_once else []
    for name in biases:  # of a layer that each rank has all of
        if tensors.get(weight := _weight_of(name)) is checkpoint.tensors.get(weight):
            tensors[name] = checkpoint.tensors[name]
    values = rank_values(config, sizes, rank, widths)
    part = RankPart(rank, checkpoint, cutter, widths)
    return replace(checkpoint, config=_with(checkpoint, values), tensors=tensors), part


def _weight_of(bias: str) -> str:
    return bias.removesuffix("_bias") if bias.endswith("_bias") else f"{bias.removesuffix('.bias')}.weight"


def _unit(quant: str, width: int) -> int:
    form = format_of(quant, width)
    return form.unit(width) if form else 1


def _with(checkpoint: Checkpoint, values: dict[str, int]) -> dict[str, Any]:
    """Return the configuration with other values in the part for text."""
    config = checkpoint.config
    if isinstance(config.get("text_config"), dict):
        return config | {"text_config": config["text_config"] | values}
    return config | values


def not_split(error: ModelLoadError, part: RankPart) -> ModelLoadError:
    """Return the refusal of a class that cannot be built as a part, in place of a broken model."""
    if error.code != "model_broken":
        return error
    cause = f"tensor_parallel {part.rank.size} is not for this class, which cannot be built in part"
    return ModelLoadError("model_unsupported", f"{cause}: {error.message}")

"""Which pieces of a stored tensor a rank has.

    rows of heads       q_proj, q_b_proj, kv_b_proj, gates, sinks; k_proj and v_proj by their own heads;
                        what joins them in sections
    columns of heads    o_proj, out_proj
    rows of widths      gate_proj, up_proj, w1, w3, fc1, c_fc; twice gate_up_proj, input_linear
    columns of widths   down_proj, w2, fc2, c_proj, output_linear
    of recurrences      rows and columns by their own heads, in sections

A bias of rows is cut with them. One that is added to what columns make is added on rank 0 alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import ceil, gcd, lcm, prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from neuron.models.checkpoint import ModelLoadError, OpenFiles, TensorEntry
from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.stored_weight import StoredWeight
from neuron.models.tensor_parallel.parts import SplitParts
from neuron.models.tensor_parallel.recurrence import Recurrence
from neuron.models.tensor_parallel.sizes import EXPERTS, HEADS, KV_HEADS, Rank, SplitSizes

Bounds = tuple[int, int]

_HEADS = re.compile(r"\.(?:self_attn|attn|mixer)\.(\w+?)(?:\.\w+)?$")
_BY_HEADS = {
    **dict.fromkeys(("q_proj", "q_b_proj", "kv_b_proj", "gate_proj", "g_proj", "linear_gate"), (HEADS,)),
    **dict.fromkeys(("sinks", "learnable_sink_param"), (HEADS,)),
    **dict.fromkeys(("k_proj", "v_proj"), (KV_HEADS,)),
    "qkv_proj": (HEADS, KV_HEADS, KV_HEADS),
    "gqkv_proj": (HEADS, HEADS, HEADS, HEADS),
}
_HEADS_OUT = re.compile(r"\.(?:self_attn\.out_proj|(?:self_attn|attn|mixer)\.o_proj)\.(\w+)$")
_WIDTHS = re.compile(r"\.(gate_proj|linear_gate|up_proj|w1|w3|fc1|c_fc)\.\w+$")
_TWO_WIDTHS = re.compile(r"\.(gate_up_proj|input_linear)\.\w+$")
_STACKED = re.compile(r"\.experts\.(gate_up_proj|up_proj|down_proj)(_bias)?$")
_ONE_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_WIDTHS_OUT = re.compile(r"\.(?:down_proj|w2|fc2|c_proj|output_linear)\.(\w+)$")


class Order(Enum):
    """How a class keeps experts."""

    OUTPUTS_FIRST = auto()  # (experts, out, in)
    INPUTS_FIRST = auto()
    INPUTS_FIRST_IN_TURNS = auto()  # gate and up take turns


class Cut(NamedTuple):
    """How a tensor is cut: along which dimension, which holds one section after the other."""

    dim: int
    keys: tuple[str, ...]  # of the configuration: what is counted in each section
    elements: tuple[int, ...] = ()  # how many inputs or outputs there are for each; empty: as many for all
    is_columns: bool = False
    is_once: bool = False  # whole on rank 0, zeros on others


@dataclass(frozen=True, slots=True)
class Cutter:
    """Finds the cuts of a checkpoint's tensors by their names."""

    parts: SplitParts
    sizes: SplitSizes
    order: Order

    def cut(self, name: str, shape: tuple[int, ...]) -> Cut | None:
        """Return how the tensor is cut; None if each rank has all of it."""
        recurrence = self.sizes.recurrence
        if recurrence and (cut := _of_recurrence(recurrence, name, shape)):
            return cut
        if self.parts.attention and (cut := _of_heads(name, shape)):
            return cut
        if ".self_attn." in name:
            return None
        if self.sizes.experts and ".experts." in name:
            is_stacked = _ONE_EXPERT.search(name) is None and shape[0] == self.sizes.experts
            return Cut(0, (EXPERTS,)) if is_stacked else None
        key = self._width_key(name)
        return None if key is None else self._of_width(name, shape, key)

    def is_elsewhere(self, name: str, rank: Rank) -> bool:
        """Return whether a tensor is of an expert that another rank has."""
        found = _ONE_EXPERT.search(name) if self.sizes.experts else None
        return found is not None and int(found[1]) not in range(*self.sizes.bounds(EXPERTS, rank))

    def _width_key(self, name: str) -> str | None:
        if ".experts." in name or ".block_sparse_moe." in name:
            return self.sizes.expert_key
        if ".shared_" in name:  # shared_expert, shared_experts, shared_mlp
            return self.sizes.shared_key
        return self.sizes.dense_key

    def _of_width(self, name: str, shape: tuple[int, ...], key: str) -> Cut | None:
        if found := _STACKED.search(name):
            return self._of_experts(found[1], shape, key, is_bias=bool(found[2]))
        if _TWO_WIDTHS.search(name):
            return Cut(max(0, len(shape) - 2), (key, key))  # the second dimension of all experts
        if _WIDTHS.search(name):
            return Cut(0, (key,))
        if found := _WIDTHS_OUT.search(name):
            return Cut(len(shape) - 1, (key,), is_columns=True, is_once=found[1] == "bias")
        return None

    def _of_experts(self, leaf: str, shape: tuple[int, ...], key: str, *, is_bias: bool) -> Cut:
        """Return the cut of a tensor of all experts, in their order, or of their biases."""
        is_turned = self.order is not Order.OUTPUTS_FIRST and not is_bias
        if leaf == "down_proj":
            dim = 1 if is_turned else len(shape) - 1
            return Cut(dim, (key,), is_columns=True, is_once=is_bias)
        is_whole = leaf == "up_proj" or self.order is Order.INPUTS_FIRST_IN_TURNS  # one slice has gate and up
        return Cut(len(shape) - 1 if is_turned else 1, (key,) if is_whole else (key, key))


def _of_recurrence(recurrence: Recurrence, name: str, shape: tuple[int, ...]) -> Cut | None:
    found = re.search(rf"\.{recurrence.module}\.(\w+?)(?:\.(\w+))?$", name)
    if found and found[1] in {"out_proj", "x_proj"}:
        is_once = found[2] == "bias"
        return Cut(len(shape) - 1, (recurrence.out_key,), is_columns=True, is_once=is_once)
    rows = recurrence.rows.get(found[1]) if found else None
    return Cut(0, *rows) if rows else None


def _of_heads(name: str, shape: tuple[int, ...]) -> Cut | None:
    if found := _HEADS_OUT.search(name):
        return Cut(len(shape) - 1, (HEADS,), is_columns=True, is_once=found[1] == "bias")
    found = _HEADS.search(name)
    keys = _BY_HEADS.get(found[1]) if found else None
    return Cut(0, keys) if keys else None


def unit_of(entry: TensorEntry) -> int:
    """Return between how many inputs a stored tensor can be cut."""
    form = getattr(entry, "format", None) or BLOCK_TYPES.get(entry.dtype)
    return 1 if form is None else int(form.unit(entry.shape[-1]))


def width_bounds(
    tensors: Mapping[str, TensorEntry], cutter: Cutter, rank: Rank, units: Mapping[str, int]
) -> dict[str, Bounds]:
    """Return which part of each width a rank has, between whole blocks of all tensors.

    `units` are those of what is quantized later. Raises ModelLoadError where there are too few blocks.
    """
    bounds = {}
    for key, width in cutter.sizes.widths.items():
        unit, file = units.get(key, 1), None
        for name, entry in tensors.items():
            cut = cutter.cut(name, entry.shape)
            if cut and cut.keys == (key,) and cut.is_columns and not cut.is_once:
                own = unit_of(entry)
                per_width = max(1, entry.shape[cut.dim] // width)
                unit, file = lcm(unit, own // gcd(own, per_width)), entry.file
        if -(-width // unit) < rank.size:
            raise _uncut(file, f"{key} {width} is stored in blocks of {unit}", rank)
        bounds[key] = rank.bounds(width, unit)
    return bounds


def _uncut(file: Path | None, cause: str, rank: Rank) -> ModelLoadError:
    message = f"{file}: {cause}, which tensor_parallel {rank.size} cannot split; use fewer devices"
    return ModelLoadError("model_unsupported", message)


@dataclass(frozen=True, slots=True)
class PartEntry:
    """A `TensorEntry` of what one rank has of a tensor."""

    name: str
    whole: TensorEntry
    dim: int
    ranges: tuple[Bounds, ...]  # of that dimension, one after the other
    is_zero: bool = False

    @property
    def file(self) -> Path:
        return self.whole.file

    @property
    def dtype(self) -> str:
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.whole.shape)
        shape[self.dim] = sum(stop - start for start, stop in self.ranges)
        return tuple(shape)

    @property
    def _share(self) -> float:
        return prod(self.shape) / max(1, prod(self.whole.shape))

    @property
    def num_bytes(self) -> int:
        return ceil(self.whole.num_bytes * self._share)

    def loaded_bytes(self, item_bytes: int) -> int:
        return ceil(self.whole.loaded_bytes(item_bytes) * self._share)

    def read(self, files: OpenFiles) -> Tensor:
        whole = self.whole.read(files)
        if self.is_zero:
            return torch.zeros_like(whole)
        part = take_ranges(whole, self.dim, self.ranges)
        if isinstance(whole, StoredWeight) and not isinstance(part, StoredWeight):
            cause = f"{self.name} is stored as {whole.matrix.format.name} in an order that cannot be split"
            raise ModelLoadError("model_unsupported", f"{self.file}: {cause}; load it on one device")
        return part


def part_entry(
    name: str, entry: TensorEntry, cut: Cut, cutter: Cutter, rank: Rank, widths: Mapping[str, Bounds]
) -> TensorEntry:
    """Return a rank's part of a tensor. Raises ModelLoadError where a cut would go through a block."""
    length = entry.shape[cut.dim]
    if cut.is_once:
        return PartEntry(name, entry, cut.dim, ((0, length),), is_zero=rank.index > 0)
    ranges = cut_ranges(length, cut, cutter, rank, widths)
    if ranges is None:
        return entry  # whoever builds the model says what is wrong with its shape
    unit = unit_of(entry) if cut.is_columns else 1
    if any(edge % unit for bounds in ranges for edge in bounds if edge != length):
        each = _elements(length, cut, cutter)[0]
        cause = f"{name} is stored in blocks of {unit} inputs, {each} for a head"
        raise _uncut(entry.file, cause, rank)
    return PartEntry(name, entry, cut.dim, ranges)


def cut_ranges(
    length: int, cut: Cut, cutter: Cutter, rank: Rank, widths: Mapping[str, Bounds]
) -> tuple[Bounds, ...] | None:
    """Return which parts of a dimension a rank has; None if the configuration says another length."""
    ranges, before = [], 0
    for key, each in zip(cut.keys, _elements(length, cut, cutter), strict=True):
        start, stop = widths.get(key) or cutter.sizes.bounds(key, rank)
        ranges.append((before + start * each, before + stop * each))
        before += cutter.sizes.count(key) * each
    return tuple(ranges) if before == length else None


def _elements(length: int, cut: Cut, cutter: Cutter) -> Sequence[int]:
    """Return how many inputs or outputs there are for each of what is counted."""
    counts = [cutter.sizes.count(key) for key in cut.keys]
    return cut.elements or [length // sum(counts)] * len(counts)


def take_ranges(tensor: Tensor, dim: int, ranges: Sequence[Bounds]) -> Tensor:
    """Return parts of one dimension, one after the other; a view if there is one part."""
    pieces = [tensor[(*(slice(None),) * dim, slice(*bounds))] for bounds in ranges]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)

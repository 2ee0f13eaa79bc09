"""A checkpoint of plain numbers that is read as if it were stored quantized."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuron.models.architecture import read_config
from neuron.models.checkpoint import (
    ITEM_BYTES,
    Checkpoint,
    ModelLoadError,
    OpenFiles,
    TensorEntry,
    model_broken,
)
from neuron.models.in_situ.choice import WeightChoice, choose
from neuron.models.in_situ.quantization import InSituFormat, format_of, quantize
from neuron.models.mapped_file import mapping_of
from neuron.models.stored_weight import StoredWeight
from neuron.models.tensor_parallel.tensors import PartEntry

log = logging.getLogger("neuron.models")

_STORED = "stored as"

FindClass = Callable[[Checkpoint, Any], Any]


@dataclass(frozen=True, slots=True)
class InSituEntry:
    """A tensor of plain numbers that is quantized when it is read."""

    name: str
    plain: TensorEntry
    format: InSituFormat
    is_transposed: bool  # its rows are inputs

    @property
    def file(self) -> Path:
        return self.plain.file

    @property
    def dtype(self) -> str:
        return self.format.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.plain.shape

    @property
    def num_bytes(self) -> int:
        return self.plain.num_bytes

    def loaded_bytes(self, item_bytes: int) -> int:
        del item_bytes  # no number is plain
        return int(prod(self.shape) * self.format.bits_per_weight) // 8

    def read(self, files: OpenFiles) -> Tensor:
        weight = self.plain.read(files)
        rows = weight.transpose(-1, -2) if self.is_transposed else weight
        try:
            matrix = quantize(rows, self.format, torch.get_num_threads(), files.pause)
        except ValueError as error:
            raise model_broken(self.file, f"{self.name} {error}") from error
        if mapped := mapping_of(weight):
            mapped.drop(weight)
        return StoredWeight(matrix, weight.dtype, is_transposed=self.is_transposed)


def in_situ(checkpoint: Checkpoint, quant: str, find_class: FindClass) -> Checkpoint:
    """Return the checkpoint with the weights of its linear layers and experts as they are after `quantize`.

    `find_class` finds transformers' class of it. Raises ModelLoadError unless such weights are plain numbers.
    """
    config = read_config(checkpoint)
    tensors, made, left = dict(checkpoint.tensors), Counter[str](), Counter[str]()
    for name, choice in choose(tensors, config, find_class(checkpoint, config), quant).items():
        entry = tensors[name]
        if entry.dtype not in ITEM_BYTES:
            left[f"{_STORED} {entry.dtype}"] += 1
        elif form := _format(entry, choice):
            tensors[name] = InSituEntry(name, entry, form, choice.is_transposed)
            made[form.name] += 1
        else:
            left["rows of no whole number of blocks"] += 1
    if not made or any(why.startswith(_STORED) for why in left):
        raise ModelLoadError("model_unsupported", f"{checkpoint.path}: {_refusal(quant, left)}")
    log.info("weights are quantized", extra={"quant": quant, "formats": dict(made), "left": dict(left)})
    return replace(checkpoint, tensors=tensors)


def _format(entry: TensorEntry, choice: WeightChoice) -> InSituFormat | None:
    dim = -2 if choice.is_transposed else -1
    width = entry.shape[dim]
    whole = entry.whole.shape[dim] if isinstance(entry, PartEntry) else width
    form = format_of(choice.quant, whole)  # the one that all ranks of a group have
    if form and whole != width and (form.unit(width) == 1 or width % form.unit(width)):
        return format_of(choice.quant, width)
    return form


def _refusal(quant: str, left: Iterable[str]) -> str:
    why = ", ".join(left) or "there are no linear layers"
    return f"its weights cannot be quantized as {quant} ({why}); load it without quant"

"""Checkpoints with tensors that stay as they are stored, and their twins of the plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

from neuron.device.attention import use_backend
from neuron.models.attention_interface import AttentionProbe
from neuron.models.checkpoint import Checkpoint, OpenFiles, TensorEntry
from neuron.models.decoder import AnyDecoder, load_decoder
from neuron.models.formats.block_type import BlockType
from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.formats.dequantized import dequantized_product
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix
from neuron.models.stored_weight import StoredWeight, dense
from neuron.models.weights import LoadOptions
from tests.device.serving import prompt

Store = Callable[[Tensor], Tensor]  # of plain numbers, (out, in), to what is read


@dataclass(frozen=True)
class ChangedEntry:
    """An entry that reads as `change` makes another of it."""

    entry: TensorEntry
    change: Store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.entry, name)

    def read(self, files: OpenFiles) -> Tensor:
        return self.change(self.entry.read(files))


def q8_0(weight: Tensor) -> StoredWeight:
    rows = gguf.quants.quantize(weight.float().numpy(), gguf.GGMLQuantizationType.Q8_0)
    matrix = Matrix(BLOCK_TYPES["q8_0"], (torch.from_numpy(rows),), None, weight.shape[-1])
    return StoredWeight(matrix, weight.dtype)


def int8(weight: Tensor) -> StoredWeight:
    scales = weight.float().abs().amax(1, keepdim=True) / 127
    codes = ((weight.float() / scales).round() + 128).to(torch.uint8)
    kept = ScaledCodes("int8", weight.shape[1])
    return StoredWeight(Matrix(kept, (codes, scales), None, weight.shape[1]), weight.dtype)


def stored(checkpoint: Checkpoint, stores: Mapping[str, Store]) -> tuple[Checkpoint, Checkpoint]:
    """Return a checkpoint whose tensors are stored by what their name has a part of, and its plain twin."""
    entries: dict[str, TensorEntry] = {}
    plain: dict[str, TensorEntry] = {}
    for name, entry in checkpoint.tensors.items():
        entries[name] = plain[name] = entry
        store = next((store for part, store in stores.items() if part in name), None)
        if store is not None and len(entry.shape) == 2:
            entries[name] = ChangedEntry(entry, store)
            plain[name] = ChangedEntry(entry, lambda weight, store=store: dense(store(weight)))
    return replace(checkpoint, tensors=entries), replace(checkpoint, tensors=plain)


def multiply_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let products go by way of plain numbers: others may round activations."""
    for known in (BlockType, ScaledCodes):
        monkeypatch.setattr(known, "product", lambda _, matrix: dequantized_product(matrix))
        monkeypatch.setattr(known, "grouped_product", lambda *_: None)


def load(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, *, fused: bool = True) -> AnyDecoder:
    options = LoadOptions(dtype, torch.device("cpu"), on_progress=lambda _: None)
    return load_decoder(checkpoint, options, fused=fused)


def logits(loaded: AnyDecoder, length: int = 40) -> Tensor:
    """The logits after each token of one prompt, without a cache."""
    tokens = torch.tensor(prompt(3, length))
    with use_backend(AttentionProbe()), torch.inference_mode():
        return loaded(tokens, torch.arange(length), torch.arange(length))

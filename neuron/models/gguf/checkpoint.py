"""A model in GGUF files as a `Checkpoint`: Hugging Face's configuration, names and shapes.

Blocks stay in the file, which is mapped, and become `StoredWeight`s as they are. What conversion has changed
is undone on whole rows.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuron.models.checkpoint import (
    Checkpoint,
    ModelLoadError,
    OpenFiles,
    TensorEntry,
    model_broken,
)
from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.gguf.config import common_config, require_same_heads
from neuron.models.gguf.container import StoredTensor
from neuron.models.gguf.families import FAMILIES, MIXTRAL, Family
from neuron.models.gguf.metadata import ARCHITECTURE, GgufKeys
from neuron.models.gguf.naming import Parameter, parameters
from neuron.models.gguf.rotation import Tensors, read_divisors
from neuron.models.gguf.split_files import read_files
from neuron.models.mapped_file import map_file
from neuron.models.matrix import Matrix
from neuron.models.stored_weight import StoredWeight

_PLAIN = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
}


@dataclass(frozen=True, slots=True)
class GgufEntry:
    """A `neuron.models.checkpoint.TensorEntry`: a parameter that tensors of GGUF files make."""

    parameter: Parameter
    shape: tuple[int, ...]

    @property
    def file(self) -> Path:
        return self.parameter.sources[0].file

    @property
    def dtype(self) -> str:
        first, *others = self.parameter.sources
        if first.type.is_plain and not others:
            return first.type.name
        if _is_matrix(first) and all(other.type == first.type for other in others):
            return first.type.name.lower() if not first.type.is_plain else first.type.name
        return "F32"  # what is stored differently is joined as plain numbers

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.parameter.sources)

    def loaded_bytes(self, item_bytes: int) -> int:
        return prod(self.shape) * item_bytes if self.dtype in _PLAIN else self._stored_bytes

    @property
    def _stored_bytes(self) -> int:
        kind = self.parameter.sources[0].type
        return prod(self.shape) // kind.num_values * kind.num_bytes

    def read(self, files: OpenFiles) -> Tensor:
        return self.parameter.arrange([_read(tensor, files) for tensor in self.parameter.sources])


def read_gguf(path: Path) -> Checkpoint:
    """Return all of a model but its weights; `path` is its file, or the first of several.

    Raises ModelLoadError naming file, key or tensor, and cause.
    """
    files = read_files(path)
    metadata = GgufKeys(files)
    family = _family(metadata)
    config = _config(metadata, family, files.tensors)
    entries: dict[str, TensorEntry] = {
        parameter.name: _entry(parameter) for parameter in parameters(family, files.tensors, config)
    }
    return Checkpoint(path, config, entries, read_divisors(files.tensors))


def _family(metadata: GgufKeys) -> Family:
    family = FAMILIES.get(metadata.architecture)
    if family is None:
        cause = (
            f"{ARCHITECTURE} is {metadata.architecture!r}; of GGUF files {', '.join(sorted(FAMILIES))} run"
        )
        cure = "use the model's safetensors release, of which transformers' decoders run"
        raise ModelLoadError("model_unsupported", f"{metadata.path}: {cause}; {cure}")
    has_experts = metadata.has(".expert_count") and metadata.whole(".expert_count", least=0)
    return MIXTRAL if family.model_type == "llama" and has_experts else family


def _config(metadata: GgufKeys, family: Family, tensors: Tensors) -> dict[str, Any]:
    config = common_config(metadata, tensors)
    if family.same_heads:
        require_same_heads(metadata, config["num_hidden_layers"])
    own = family.keys(metadata, tensors, config)
    return {"model_type": family.model_type, **config, **own, "dtype": _dtype(tensors)}


def _dtype(tensors: Tensors) -> str | None:
    """Return what to compute in where most weights are blocks; None: as the plain ones are stored.

    Files do not tell what a model was trained in, and bfloat16 has the range of whatever it was.
    """
    plain = sum(tensor.num_bytes for tensor in tensors.values() if tensor.type.is_plain)
    return "bfloat16" if 2 * plain < sum(tensor.num_bytes for tensor in tensors.values()) else None


def _entry(parameter: Parameter) -> GgufEntry:
    for tensor in parameter.sources:
        if not tensor.type.is_plain and tensor.type.name.lower() not in BLOCK_TYPES:
            known = ", ".join(sorted(name.upper() for name in BLOCK_TYPES))
            cause = f"{tensor.name} is of type {tensor.type.name}, which is not read here; {known} are"
            raise ModelLoadError("model_unsupported", f"{tensor.file}: {cause}")
    try:
        likely = [torch.empty(tensor.shape, device="meta") for tensor in parameter.sources]
        shape = tuple(parameter.arrange(likely).shape)
    except (RuntimeError, IndexError, ValueError) as error:
        names = " and ".join(tensor.name for tensor in parameter.sources)
        shapes = " and ".join(str(list(tensor.shape)) for tensor in parameter.sources)
        cause = f"{names}: of shape {shapes}, which makes no {parameter.name}"
        raise model_broken(parameter.sources[0].file, cause) from error
    return GgufEntry(parameter, shape)


def _is_matrix(tensor: StoredTensor) -> bool:
    """Return whether something is multiplied by a tensor; what is added to it is needed as plain numbers."""
    return len(tensor.shape) > 1 and not tensor.name.endswith(".bias")


def _read(tensor: StoredTensor, files: OpenFiles) -> Tensor:
    """Return a tensor as it is stored, a view of the mapped file."""
    try:
        data: Tensor = files.get(tensor.file, lambda file: nullcontext(map_file(file)))
    except (OSError, ValueError) as error:
        raise model_broken(tensor.file, f"{tensor.name} cannot be read: {error}") from error
    end = tensor.start + tensor.num_bytes
    if end > len(data):
        raise model_broken(tensor.file, f"{tensor.name} cannot be read: the file has become shorter")
    stored = data[tensor.start : end]
    if dtype := _PLAIN.get(tensor.type.name):
        aligned = stored if tensor.start % dtype.itemsize == 0 else stored.clone()
        return aligned.view(dtype).view(tensor.shape)
    blocks = stored.view(*tensor.shape[:-1], tensor.row_bytes)
    matrix = Matrix(BLOCK_TYPES[tensor.type.name.lower()], (blocks,), None, tensor.shape[-1])
    if not _is_matrix(tensor):
        return matrix.dequantize(torch.float32)
    return StoredWeight(matrix, torch.float32)

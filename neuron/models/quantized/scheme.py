"""What the readers of quantized safetensors checkpoints have in common.

A scheme stores a weight as several tensors of a module. Its reader says which they are and checks their types
and shapes against the configuration, before any is read; then it makes one `TensorEntry` of them, which reads
as a `StoredWeight` under the weight's own name. Which modules are quantized is seen by their tensors: what
"ignore" or "modules_to_not_convert" list is stored as plain numbers, and is read so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from neuron.models.checkpoint import ModelLoadError, OpenFiles, TensorEntry, model_broken
from neuron.models.matrix import Matrix, MatrixFormat
from neuron.models.stored_weight import StoredWeight

Parts = Mapping[str, TensorEntry]  # of a weight, by what their names add to the module's
Build = Callable[[Mapping[str, Tensor]], Matrix]  # of the parts' tensors; may raise ValueError

# Ends of names of the scales of cached keys and values.
CACHE_SCALES = ".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".prob_scale", ".output_scale"


class WeightFormat(MatrixFormat, Protocol):
    """A format that knows its size."""

    @property
    def bits_per_weight(self) -> float: ...


@dataclass(frozen=True, slots=True)
class QuantizedEntry:
    """A `TensorEntry` of a weight that is stored as several tensors."""

    module: str
    parts: Parts
    shape: tuple[int, ...]
    format: WeightFormat
    build: Build
    is_transposed: bool = False  # in the model, against the file

    @property
    def file(self) -> Path:
        return max(self.parts.values(), key=lambda part: part.num_bytes).file

    @property
    def dtype(self) -> str:
        return self.format.name

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts.values())

    def loaded_bytes(self, _: int) -> int:
        return ceil(prod(self.shape) * self.format.bits_per_weight / 8)

    def read(self, files: OpenFiles) -> Tensor:
        tensors = {suffix: part.read(files) for suffix, part in self.parts.items()}
        try:
            matrix = self.build(tensors)
        except ValueError as error:
            raise ModelLoadError("model_unsupported", f"{self.file}: {self.module}: {error}") from error
        weight = StoredWeight(matrix, torch.float32)
        return weight.transpose(-1, -2) if self.is_transposed else weight


class Scheme(Protocol):
    """How a method stores weights."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What its tensors' names may add to the module's."""

    @property
    def weight_suffix(self) -> str:
        """What the weight's name adds in the model."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Ends of names of tensors that say how activations or caches are quantized, which are not here."""

    def entry(self, module: str, parts: Parts) -> QuantizedEntry | None:
        """Return the weight of a module; None if it is stored as plain numbers. Raises ModelLoadError."""


@dataclass(frozen=True, slots=True)
class SchemeSettings:
    """A `quantization_config`, or an object in it, whose values are checked as they are asked for.

    null says nothing.
    """

    file: Path
    place: str  # of the object in the file
    values: Mapping[str, Any]

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def refused(self, key: str, cause: str) -> ModelLoadError:
        return ModelLoadError("model_unsupported", f"{self.file}: {self.place}.{key} {cause}")

    def one_of(self, key: str, known: Collection[Any], default: Any = None) -> Any:
        """Return a value. Raises ModelLoadError that lists those that run, unless it is `known`."""
        value = self._value(key, default)
        if type(value) not in {type(each) for each in known} or value not in known:
            listed = ", ".join(str(each) for each in known)
            raise self.refused(key, f"is {value!r:.100}, which does not run; {listed} would")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number, or -1."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value == 0 or value < -1:
            raise self.refused(key, f"is {value!r:.100}, but must be a size")
        return value


def check_groups(module: str, parts: Parts, count: int, group_size: int) -> None:
    """Raise ModelLoadError unless a weight's inputs are whole groups."""
    if count % group_size:
        file = next(iter(parts.values())).file
        cause = f"{module} has {count} inputs in groups of {group_size}, the last of them shorter"
        raise ModelLoadError("model_unsupported", f"{file}: {cause}, which does not run")


def part_of(module: str, parts: Parts, suffix: str) -> TensorEntry:
    """Return a tensor that a weight cannot do without."""
    if suffix not in parts:
        first = next(iter(parts))
        cause = f"lacks {module}{suffix}, though it has {module}{first}"
        raise model_broken(parts[first].file, cause)
    return parts[suffix]


def check_part(
    module: str,
    parts: Parts,
    suffix: str,
    *,
    dtypes: Collection[str],
    shapes: Collection[tuple[int, ...]] = (),
    key: str,
) -> None:
    """Raise ModelLoadError unless a tensor has one of `dtypes` and `shapes`, as a key says."""
    part = part_of(module, parts, suffix)
    found: str | list[int] = part.dtype
    wanted = " or ".join(dtypes)
    if part.dtype in dtypes:
        if not shapes or part.shape in shapes:
            return
        found, wanted = list(part.shape), " or ".join(str(list(shape)) for shape in shapes)
    cause = f"{module}{suffix} is {found}, but must be {wanted} by quantization_config.{key}"
    raise model_broken(part.file, f"{cause}; correct the one that is wrong")

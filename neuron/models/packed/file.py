"""A file of weights as a load computes them.

It has their tensors, each from a multiple of 64 bytes on, as products want them; then what is known of each
weight, as JSON; the JSON's length in 8 bytes; and "cortexpk".
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import msgspec
import torch
from torch import Tensor

from neuron.models.checkpoint import OpenFiles
from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.mapped_file import DTYPES, MappedFile
from neuron.models.matrix import Matrix, MatrixFormat
from neuron.models.stored_weight import StoredWeight

_MAGIC = b"cortexpk"
_ALIGNMENT = 64
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a tensor is in the file."""

    start: int
    dtype: str
    shape: tuple[int, ...]


class PackedWeight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a weight but its numbers."""

    format: str
    dtype: str  # of the numbers that it stands for
    in_features: int
    blocks: tuple[_Place, ...]
    group_size: int = 0  # of scaled codes
    has_zeros: bool = False
    factor: _Place | None = None
    input_order: _Place | None = None
    is_transposed: bool = False

    def read(self, path: Path, files: OpenFiles) -> StoredWeight:
        """Return the weight, of the mapped file's tensors. Raises OSError or ValueError."""
        mapped = files.get(path, lambda path: nullcontext(MappedFile(path)))
        form: MatrixFormat
        if self.group_size:
            form = ScaledCodes(self.format, self.group_size, self.has_zeros)
        else:
            form = BLOCK_TYPES[self.format]
        matrix = Matrix(
            form,
            tuple(_tensor(mapped, place) for place in self.blocks),
            None,
            self.in_features,
            factor=None if self.factor is None else _tensor(mapped, self.factor),
            input_order=None if self.input_order is None else _tensor(mapped, self.input_order),
        )
        return StoredWeight(matrix, DTYPES[self.dtype], is_transposed=self.is_transposed)


def _tensor(mapped: MappedFile, place: _Place) -> Tensor:
    return mapped.tensor(place.start, place.dtype, place.shape)


def write_weights(stream: IO[bytes], weights: Iterable[tuple[str, StoredWeight]]) -> None:
    """Write a file of weights, each by its name. Raises OSError."""
    known = {name: _write_weight(stream, weight) for name, weight in weights}
    end = msgspec.json.encode(known)
    stream.write(end + len(end).to_bytes(8, "little") + _MAGIC)


def _write_weight(stream: IO[bytes], weight: StoredWeight) -> PackedWeight:
    matrix = weight.matrix
    form = matrix.format
    return PackedWeight(
        form.name,
        _NAMES[weight.dtype],
        matrix.in_features,
        tuple(_write(stream, block) for block in matrix.blocks),
        group_size=form.group_size if isinstance(form, ScaledCodes) else 0,
        has_zeros=isinstance(form, ScaledCodes) and form.has_zeros,
        factor=None if matrix.factor is None else _write(stream, matrix.factor),
        input_order=None if matrix.input_order is None else _write(stream, matrix.input_order),
        is_transposed=weight.is_transposed,
    )


def _write(stream: IO[bytes], tensor: Tensor) -> _Place:
    start = -(-stream.tell() // _ALIGNMENT) * _ALIGNMENT
    stream.seek(start)
    stream.write(tensor.contiguous().view(torch.uint8).numpy().data)
    return _Place(start, _NAMES[tensor.dtype], tuple(tensor.shape))


def read_weights(path: Path) -> dict[str, PackedWeight]:
    """Return what a file holds, by name. Raises OSError, or ValueError for one that is damaged."""
    with path.open("rb") as stream:
        end = stream.seek(-8 - len(_MAGIC), os.SEEK_END)
        length, magic = int.from_bytes(stream.read(8), "little"), stream.read()
        if magic != _MAGIC or length > end:
            raise ValueError("it is cut short")
        stream.seek(end - length)
        try:
            return msgspec.json.decode(stream.read(length), type=dict[str, PackedWeight])
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error

"""One GGUF file: its keys and its table of tensors, read and checked before any weight is.

Whatever a file says is believed only as far as its own length allows: a count that needs more bytes than are
left fails before anything is made of it. Versions 2 and 3 are read, little-endian, as everything writes them.
Source: the format's specification, docs/gguf.md of ggml.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from neuron.models.checkpoint import ModelLoadError, model_broken
from neuron.models.formats.tensor_types import TENSOR_TYPES, TensorType, refusal

ALIGNMENT = "general.alignment"

_VERSIONS = (2, 3)
_MAX_KEYS = _MAX_TENSORS = 1 << 16
_MAX_ITEMS = 1 << 24  # of an array; the largest vocabularies have 300,000 tokens
_MAX_ALIGNMENT = 1 << 16
_MAX_NAME = 1 << 16  # bytes of a key or of a tensor's name
_MAX_DIMENSIONS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
# struct's codes of the types of values that have a fixed size.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_LEAST_KEY = 8 + 4 + 1  # bytes of an entry: an empty name, a type, a value of one byte
_LEAST_TENSOR = 8 + 4 + 8 + 4 + 8
_OLDER = {b"ggml", b"ggmf", b"ggjt", b"lmgg", b"fmgg", b"tjgg"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file. `shape` is as Hugging Face has it: rows of `shape[-1]` values."""

    file: Path
    name: str
    type: TensorType
    shape: tuple[int, ...]
    start: int  # of its first byte in the file
    num_bytes: int

    @property
    def num_values(self) -> int:
        return prod(self.shape)

    @property
    def row_bytes(self) -> int:
        return self.shape[-1] // self.type.num_values * self.type.num_bytes


@dataclass(frozen=True, slots=True)
class Container:
    """The keys of a file and its tensors, in the order of the file."""

    path: Path
    num_bytes: int  # of the whole file
    values: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_container(path: Path) -> Container:
    """Return what stands before a file's data.

    Raises ModelLoadError naming file, key or tensor, and cause.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise model_broken(path, "is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, size).read()
    except FileNotFoundError:
        raise model_broken(path, "is missing") from None
    except (OSError, ValueError) as error:
        raise model_broken(path, f"cannot be read: {error}") from error


class _Reader:
    """Walks through the bytes of one file once."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self._path = path
        self._data = data
        self._size = size
        self._place = 0
        self._where = "the header"  # what is being read, for errors

    def read(self) -> Container:
        num_tensors, num_keys = self._read_counts()
        values: dict[str, Any] = {}
        for number in range(num_keys):
            self._where = f"key {number + 1} of {num_keys}"
            name = self._name()
            if name in values:
                raise self._broken(f"the key {name} stands in it twice")
            self._where = f"key {name}"
            values[name] = self._value(self._number("I"))
        alignment = self._alignment(values)
        rows = [self._tensor_row(number, num_tensors) for number in range(num_tensors)]
        data_start = -(-self._place // alignment) * alignment
        tensors: dict[str, StoredTensor] = {}
        for name, shape, kind, offset in rows:
            if name in tensors:
                raise self._broken(f"the tensor {name} stands in it twice")
            if offset % alignment:
                raise self._broken(f"{name} begins at {offset}, which is no multiple of {alignment}")
            tensors[name] = self._tensor(name, shape, kind, data_start + offset)
        self._check_overlaps(tensors)
        return Container(self._path, self._size, values, tensors)

    def _read_counts(self) -> tuple[int, int]:
        """Return how many tensors and keys there are."""
        magic = self._bytes(min(4, self._size))
        if magic != b"GGUF":
            what = "is a file of a format before GGUF; convert the model anew"
            raise self._broken(what if magic in _OLDER else "is not a GGUF file")
        version = self._number("I")
        if version not in _VERSIONS:
            if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
                raise self._unsupported("is big-endian, which is not read here; convert the model anew")
            raise self._unsupported(f"is of version {version} of GGUF; versions 2 and 3 are read")
        num_tensors, num_keys = self._number("Q"), self._number("Q")
        self._check_count(num_keys, _LEAST_KEY, _MAX_KEYS, "keys")
        self._check_count(num_tensors, _LEAST_TENSOR, _MAX_TENSORS, "tensors")
        return num_tensors, num_keys

    # --- values ---------------------------------------------------------------------------------------

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise self._broken(f"{self._where} is of type {kind}, which the format does not have")
        value = self._number(_SCALARS[kind])
        return bool(value) if kind == _BOOL else value

    def _array(self) -> list[Any]:
        kind, count = self._number("I"), self._number("Q")
        if kind == _ARRAY:
            raise self._unsupported(f"{self._where} is an array of arrays, which is not read here")
        if kind == _STRING:
            self._check_count(count, 8, _MAX_ITEMS, f"strings in {self._where}")
            return [self._text() for _ in range(count)]
        if kind not in _SCALARS:
            raise self._broken(f"{self._where} is an array of type {kind}, which the format does not have")
        code = _SCALARS[kind]
        self._check_count(count, struct.calcsize(f"<{code}"), _MAX_ITEMS, f"values in {self._where}")
        found = struct.unpack_from(
            f"<{count}{code}", self._data, self._advance(struct.calcsize(f"<{count}{code}"))
        )
        return [*map(bool, found)] if kind == _BOOL else [*found]

    def _text(self) -> str:
        raw = self._bytes(self._number("Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._broken(f"{self._where} is not UTF-8 text") from None

    def _name(self) -> str:
        length = self._number("Q")
        if length > _MAX_NAME:
            raise self._broken(f"{self._where} has a name of {length} bytes")
        raw = self._bytes(length)
        if not raw or not raw.isascii():
            raise self._broken(f"{self._where} has the name {raw[:80]!r}, which is not ASCII text")
        return raw.decode()

    def _alignment(self, values: dict[str, Any]) -> int:
        alignment = values.get(ALIGNMENT, 32)
        is_power = isinstance(alignment, int) and alignment > 0 and alignment & (alignment - 1) == 0
        if not is_power or alignment > _MAX_ALIGNMENT:
            raise self._broken(
                f"{ALIGNMENT} is {alignment!r}, but must be a power of two up to {_MAX_ALIGNMENT}"
            )
        return int(alignment)

    # --- tensors --------------------------------------------------------------------------------------

    def _tensor_row(self, number: int, count: int) -> tuple[str, tuple[int, ...], int, int]:
        """Return a row of the table: name, shape, the type's number, and the offset in the data."""
        self._where = f"tensor {number + 1} of {count}"
        name = self._name()
        self._where = f"tensor {name}"
        num_dimensions = self._number("I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise self._broken(f"{name} has {num_dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are allowed")
        innermost_first = [self._number("Q") for _ in range(num_dimensions)]
        return name, tuple(reversed(innermost_first)), self._number("I"), self._number("Q")

    def _tensor(self, name: str, shape: tuple[int, ...], number: int, start: int) -> StoredTensor:
        if (kind := TENSOR_TYPES.get(number)) is None:
            raise self._unsupported(f"{name} is of type {refusal(number)}")
        if not all(shape):
            raise self._broken(f"{name} has shape {list(shape)}, which is empty")
        if shape[-1] % kind.num_values:
            cause = f"{name} has rows of {shape[-1]} values, which {kind.name} cannot store"
            raise self._broken(f"{cause}: it needs a multiple of {kind.num_values}")
        num_bytes = prod(shape) // kind.num_values * kind.num_bytes
        if start + num_bytes > self._size:
            cause = f"{name} ends at byte {start + num_bytes}, but the file has {self._size}"
            raise self._broken(f"is cut short or damaged: {cause}")
        return StoredTensor(self._path, name, kind, shape, start, num_bytes)

    def _check_overlaps(self, tensors: dict[str, StoredTensor]) -> None:
        ordered = sorted(tensors.values(), key=lambda tensor: tensor.start)
        for before, after in pairwise(ordered):
            if after.start < before.start + before.num_bytes:
                raise self._broken(f"{after.name} begins inside {before.name}")

    # --- bytes ----------------------------------------------------------------------------------------

    def _check_count(self, count: int, least_bytes: int, most: int, what: str) -> None:
        left = self._size - self._place
        if count > most or count * least_bytes > left:
            cause = f"claims {count} {what}, for which {left} bytes are left; at most {most} are read"
            raise self._broken(cause)

    def _number(self, code: str) -> Any:
        form = f"<{code}"
        return struct.unpack_from(form, self._data, self._advance(struct.calcsize(form)))[0]

    def _bytes(self, count: int) -> bytes:
        start = self._advance(count)
        return self._data[start : self._place]

    def _advance(self, count: int) -> int:
        """Step over some bytes, and return where they begin."""
        start = self._place
        if count > self._size - start:
            raise self._broken(f"is cut short or damaged: {self._where} needs {count} bytes at {start}")
        self._place = start + count
        return start

    def _broken(self, cause: str) -> ModelLoadError:
        return model_broken(self._path, cause)

    def _unsupported(self, cause: str) -> ModelLoadError:
        return ModelLoadError("model_unsupported", f"{self._path}: {cause}")

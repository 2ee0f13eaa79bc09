"""Files whose bytes are tensors without being read: memory of the page cache, shared by all who map it.

A file under a mapping must not be written to or cut short. To replace a model, rename a new file or directory
into its place: what is mapped stays the old file until it is unmapped. What happens nevertheless is noticed:
`MappedFile.damage` says it, and the worker asks before it sends what a step made of the weights. Where the
file's bytes are gone, `ext/guard.c` puts zeros in their place, so that the process is there to be asked.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from ext import compiled

_guard = compiled("guard")

# Linux's; Python has no name for it yet. Private pages of a file that is never written take no memory, so
# none is set aside for them.
_MAP_NORESERVE = 0x4000

# safetensors' names of them: F64, I8, BOOL …
DTYPES = {
    **{f"F{8 * dtype.itemsize}": dtype for dtype in (torch.float64, torch.float32, torch.float16)},
    **{f"I{8 * dtype.itemsize}": dtype for dtype in (torch.int64, torch.int32, torch.int16, torch.int8)},
    **{f"U{8 * dtype.itemsize}": dtype for dtype in (torch.uint64, torch.uint32, torch.uint16, torch.uint8)},
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}

_alive: weakref.WeakSet[MappedFile] = weakref.WeakSet()


class MappedFile(mmap.mmap):
    """All bytes of a file; the mapping ends with the last tensor that views it.

    A tensor can be written to, by mistake: that changes a copy of the page, never the file.
    """

    path: Path
    _descriptor: int
    _mapped: tuple[int, int]  # size and time of change
    _address: int
    _place: int  # of `ext.guard`

    def __new__(cls, path: Path) -> Self:
        """Raises OSError, or ValueError for an empty file."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
            self = super().__new__(cls, descriptor, 0, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            os.close(descriptor)
            raise
        self.path, self._descriptor = path, descriptor
        self._mapped = _state(descriptor)
        self._address = self.contents.data_ptr()
        self._place = _guard.watch(self._address, len(self)) if _guard else -1
        _alive.add(self)
        return self

    @property
    def contents(self) -> Tensor:
        """All of the file, (bytes,) uint8."""
        return torch.frombuffer(self, dtype=torch.uint8)

    def tensor(self, start: int, dtype: str, shape: Sequence[int]) -> Tensor:
        """Return a part of the file as a tensor of a type by safetensors' name; a copy if it is not aligned.

        None of it is read before its numbers are.
        """
        item = DTYPES[dtype]
        num_bytes = prod(shape) * item.itemsize
        if not num_bytes:
            return torch.empty(*shape, dtype=item)
        part = torch.frombuffer(self, dtype=torch.uint8, count=num_bytes, offset=start)
        if start % item.itemsize:
            part = part.clone()
        return part.view(item).view(shape)

    def drop(self, tensor: Tensor) -> None:
        """Give back the memory of a tensor's pages, which are read again if they are asked for."""
        start = tensor.data_ptr() - self._address
        page = start - start % mmap.PAGESIZE
        self.madvise(mmap.MADV_DONTNEED, page, start + tensor.nbytes - page)

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor's numbers are those of the file, not a copy."""
        return self._address <= tensor.data_ptr() < self._address + len(self)

    def damage(self) -> str | None:
        """Return what has become of the file since it was mapped; None while it is whole."""
        if _guard and _guard.is_lost(self._place):
            return "can no longer be read: it was cut short, or its disk failed"
        if _state(self._descriptor) != self._mapped:
            return "was written to"
        return None

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)
            if _guard:
                _guard.forget(self._place)


def map_file(path: Path) -> Tensor:
    """Return all bytes of a file, (bytes,) uint8. Raises OSError, or ValueError for an empty file."""
    return MappedFile(path).contents


def still_mapped(paths: Iterable[Path]) -> list[MappedFile]:
    """Return the mappings of these files that tensors still view."""
    wanted = set(paths)
    return [mapped for mapped in _alive if mapped.path in wanted]


def mapping_of(tensor: Tensor) -> MappedFile | None:
    """Return the file that a tensor's numbers are those of; None for a copy."""
    if tensor.device.type != "cpu":
        return None
    return next((mapped for mapped in _alive if mapped.holds(tensor)), None)


def _state(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns

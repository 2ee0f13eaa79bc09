"""The pages of one layer's keys or values: as they are computed, or as codes of eight bits.

Codes take half the memory of bfloat16, or a quarter of float32. Each head of a token has a scale of its own,
by which its largest value becomes the largest code: nothing has to be measured beforehand, and no token
changes another's codes.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

from neuron.device import row_steps

Pages = Tensor | slice  # page numbers, or a range of them that is read without a copy

_SCALES = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Coding:
    """A type of codes."""

    name: str
    dtype: torch.dtype
    largest: float

    def num_bytes(self, heads: int, dim: int) -> int:
        """Return the bytes of a token's vectors of some heads, scales included."""
        return heads * (dim * self.dtype.itemsize + _SCALES.itemsize)

    def encode(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes, (…, dim), and scales, (…, 1), of vectors."""
        scales = (vectors.abs().amax(dim=-1, keepdim=True) / self.largest).to(_SCALES)
        values = vectors / scales.clamp(min=torch.finfo(_SCALES).tiny)
        values = values.clamp(-self.largest, self.largest)
        return (values if self.dtype.is_floating_point else values.round()).to(self.dtype), scales


CODINGS = {
    coding.name: coding
    for coding in (Coding("fp8", torch.float8_e4m3fn, 448.0), Coding("int8", torch.int8, 127.0))
}
KV_DTYPES = ("auto", *CODINGS)  # auto: the model's own


class PlainPool:
    """Vectors of some heads for every place of every page."""

    def __init__(self, vectors: Tensor) -> None:
        self.stored = vectors  # (pages, page_size, heads, dim)

    @property
    def heads(self) -> int:
        return self.stored.shape[2]

    def write(self, locations: Tensor, vectors: Tensor) -> None:
        """Store (tokens, heads, dim). A location is page * page_size + offset."""
        if row_steps.can_store(vectors, self.stored):
            row_steps.store(vectors, locations, self.stored)
        else:
            self.stored.flatten(0, 1).index_copy_(0, locations, vectors.to(self.stored.dtype))

    def gather(self, pages: Pages, rows: int) -> Tensor:
        """Return (rows, heads, tokens, dim) of `rows` page lists of one length."""
        return gather(self.stored, pages, rows)

    def gather_tokens(self, locations: Tensor) -> Tensor:
        """Return (rows, heads, k, dim) of tokens at (rows, heads, k), or (rows, 1, k) for all heads."""
        return _select_tokens(self.stored, locations)


class CodedPool:
    """The same, stored as codes, for vectors of `dtype`."""

    def __init__(self, coding: Coding, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        self.stored = codes.view(coding.dtype)  # (pages, page_size, heads, dim)
        self.scales = scales  # (pages, page_size, heads, 1)
        self._bytes = self.stored.view(torch.uint8)  # not all operations know all types of codes
        self._coding = coding
        self._dtype = dtype

    @property
    def heads(self) -> int:
        return self.stored.shape[2]

    def write(self, locations: Tensor, vectors: Tensor) -> None:
        codes, scales = self._coding.encode(vectors)
        self._bytes.flatten(0, 1).index_copy_(0, locations, codes.view(torch.uint8))
        self.scales.flatten(0, 1).index_copy_(0, locations, scales)

    def gather(self, pages: Pages, rows: int) -> Tensor:
        return self._decode(gather(self._bytes, pages, rows), gather(self.scales, pages, rows))

    def gather_tokens(self, locations: Tensor) -> Tensor:
        return self._decode(_select_tokens(self._bytes, locations), _select_tokens(self.scales, locations))

    def _decode(self, codes: Tensor, scales: Tensor) -> Tensor:
        return codes.view(self._coding.dtype).to(self._dtype) * scales.to(self._dtype)


Pool = PlainPool | CodedPool


def allocate_pool(
    shape: tuple[int, ...], coding: Coding | None, *, dtype: torch.dtype, device: torch.device
) -> Pool:
    """Return a pool of zeros, (pages, page_size, heads, dim)."""
    if coding is None:
        return PlainPool(allocate_zeros(shape, dtype=dtype, device=device))
    codes = allocate_zeros(shape, dtype=torch.uint8, device=device)
    return CodedPool(coding, codes, allocate_zeros((*shape[:3], 1), dtype=_SCALES, device=device), dtype)


def allocate_zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros. On a CPU they are a mapping of their own: the first write takes a page of memory, and all
    of it goes back to the system with the tensor."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(torch.Size(shape).numel()) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


def gather(pool: Tensor, pages: Pages, rows: int) -> Tensor:
    """Return (rows, heads, tokens, dim) of `rows` page lists of one length."""
    return select_pages(pool, pages).view(rows, -1, *pool.shape[2:]).transpose(1, 2)


def select_pages(pool: Tensor, pages: Pages) -> Tensor:
    return pool[pages] if isinstance(pages, slice) else pool.index_select(0, pages)


def _select_tokens(pool: Tensor, locations: Tensor) -> Tensor:
    if locations.shape[1] == 1:
        return pool.flatten(0, 1)[locations[:, 0]].transpose(1, 2)
    heads = torch.arange(pool.shape[2], device=pool.device)[:, None]
    return pool.flatten(0, 1)[locations, heads]

"""Types of blocks, as GGUF stores weights: so many numbers share their scales and stand in so many bytes.

A decoder is a pure function of bytes, on any device: (blocks, bytes) uint8 to (blocks, elements) float32. Its
numbers are bit for bit those of the `gguf` package, whose order of float operations it therefore keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuron.models.cuda.products import cuda_grouped_product, cuda_product
from neuron.models.formats.cpu_product import cpu_grouped_product, cpu_product, multiplies
from neuron.models.formats.dequantized import dequantized_product
from neuron.models.matrix import GroupedProduct, Matrix, Product

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class BlockType:
    """A type of blocks: `elements` numbers in `size` bytes, known to GGUF files by a number.

    As a `neuron.models.matrix.MatrixFormat` it has one tensor, (…, out, row bytes) uint8.
    """

    name: str  # GGUF's, in lower case
    gguf_type: int
    elements: int
    size: int
    decode: Decode
    table: tuple[int, ...] | None = None  # the values of codes, where nothing computes them

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.size / self.elements

    def row_bytes(self, in_features: int) -> int:
        """Return how many bytes a row takes. Raises `ValueError` where it isn't a number of whole blocks."""
        blocks, rest = divmod(in_features, self.elements)
        if rest:
            raise ValueError(f"a row of {in_features} is no multiple of {self.name}'s {self.elements}")
        return blocks * self.size

    def in_features(self, row_bytes: int) -> int:
        """Return how many numbers stand in a row of so many bytes. Raises `ValueError` at a cut block."""
        blocks, rest = divmod(row_bytes, self.size)
        if rest:
            raise ValueError(f"a row of {row_bytes} bytes is no multiple of {self.name}'s {self.size}")
        return blocks * self.elements

    def unit(self, in_features: int) -> int:
        return self.elements

    def columns(self, blocks: Sequence[Tensor], inputs: slice) -> tuple[BlockType, tuple[Tensor, ...]]:
        (rows,) = blocks
        return self, (rows[..., self.row_bytes(inputs.start) : self.row_bytes(inputs.stop)],)

    def dequantize(self, blocks: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        (rows,) = blocks
        shape = (*rows.shape[:-1], self.in_features(rows.shape[-1]))
        return self.decode(rows.reshape(-1, self.size)).to(dtype).view(shape)

    def product(self, matrix: Matrix) -> Product:
        if multiplies(self.name, matrix.blocks[0].device):
            return cpu_product(self.name, matrix)
        return cuda_product(matrix, self.table) or dequantized_product(matrix)

    def grouped_product(self, matrix: Matrix) -> GroupedProduct | None:
        if multiplies(self.name, matrix.blocks[0].device):
            return cpu_grouped_product(self.name, matrix)
        return cuda_grouped_product(matrix, self.table)


def floats(column: Tensor, dtype: torch.dtype = torch.float16) -> Tensor:
    """Return the numbers of `dtype` that some columns of bytes hold, as float32."""
    return column.contiguous().view(dtype).float()


def bits(packed: Tensor, width: int) -> Tensor:
    """Return the codes of `width` bits in bytes, (…, n) to (…, 8 / width, n), lowest first."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device).view(-1, 1)
    return (packed.unsqueeze(-2) >> shifts) & ((1 << width) - 1)

"""Weights as codes of four or eight bits, with a scale for every group of inputs of an output.

name    bits   a code's value
int8    8      code - zero, where zero is 128 unless stored
int4    4      code - zero, where zero is 8 unless stored
fp8     8      float8_e4m3fn
nf4     4      NormalFloat4's table (arXiv 2305.14314)
fp4     4      bitsandbytes' table of a float with two bits of exponent
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from neuron.models.cuda.products import cuda_grouped_product, cuda_product
from neuron.models.formats.cpu_product import cpu_grouped_product, cpu_product, multiplies
from neuron.models.formats.dequantized import dequantized_product
from neuron.models.matrix import GroupedProduct, Matrix, Product

_BITS = {"int8": 8, "int4": 4, "fp8": 8, "nf4": 4, "fp4": 4}
_MIDDLE = {"int8": 128.0, "int4": 8.0}
# The quantiles of a normal distribution, scaled to end at -1 and 1.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FP4_POSITIVE = (0.0, 0.005208333333333333, 0.6666666666666666, 1.0, 1 / 3, 0.5, 1 / 6, 0.25)
TABLES = {"nf4": _NF4, "fp4": (*_FP4_POSITIVE, *(-value for value in _FP4_POSITIVE))}


@dataclass(frozen=True, slots=True)
class ScaledCodes:
    """A `neuron.models.matrix.MatrixFormat` of two or three tensors.

    Codes are (…, out, in), or (…, out, in / 2) with an even input's in the lower four bits, uint8; scales are
    (…, out, in / `group_size`), float32; zeros, if it has some, are the same of uint8.
    """

    name: str
    group_size: int
    has_zeros: bool = False

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return _BITS[self.name]

    @property
    def table(self) -> tuple[float, ...] | None:
        """The values of codes, where nothing computes them."""
        return TABLES.get(self.name)

    @property
    def bits_per_weight(self) -> float:
        return self.bits + (40 if self.has_zeros else 32) / self.group_size

    def unit(self, in_features: int) -> int:
        """Return the size of a group; of rows that are one group, how many codes stand in a byte."""
        return 8 // self.bits if self.group_size == in_features else self.group_size

    def columns(self, blocks: Sequence[Tensor], inputs: slice) -> tuple[ScaledCodes, tuple[Tensor, ...]]:
        codes, *others = blocks
        in_features = codes.shape[-1] * 8 // self.bits
        per_byte = 8 // self.bits
        cut = codes[..., inputs.start // per_byte : inputs.stop // per_byte]
        if self.group_size == in_features:
            return replace(self, group_size=inputs.stop - inputs.start), (cut, *others)
        groups = slice(inputs.start // self.group_size, inputs.stop // self.group_size)
        return self, (cut, *(other[..., groups] for other in others))

    def dequantize(self, blocks: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        codes, scales, *zeros = blocks
        values = self._values(codes)
        values = values.view(*values.shape[:-1], -1, self.group_size)
        if zeros:
            values -= zeros[0].float().unsqueeze(-1)
        elif self.name in _MIDDLE:
            values -= _MIDDLE[self.name]
        return values.mul_(scales.unsqueeze(-1)).flatten(-2).to(dtype)

    def _values(self, codes: Tensor) -> Tensor:
        if self.name == "fp8":
            return codes.view(torch.float8_e4m3fn).float()
        if self.bits == 4:
            codes = torch.stack([codes & 0xF, codes >> 4], -1).flatten(-2)
        if self.name in TABLES:
            return _table(self.name, codes.device)[codes.int()]
        return codes.float()

    def product(self, matrix: Matrix) -> Product:
        if self._is_multiplied(matrix):
            return cpu_product(self.name, matrix, self.group_size)
        return cuda_product(matrix, self.table) or dequantized_product(matrix)

    def grouped_product(self, matrix: Matrix) -> GroupedProduct | None:
        if self._is_multiplied(matrix):
            return cpu_grouped_product(self.name, matrix, self.group_size)
        return cuda_grouped_product(matrix, self.table)

    def _is_multiplied(self, matrix: Matrix) -> bool:
        """Return whether `ext` multiplies by the codes: each group's are whole bytes."""
        return self.group_size * self.bits % 8 == 0 and multiplies(self.name, matrix.blocks[0].device)


@cache
def _table(name: str, device: torch.device) -> Tensor:
    return torch.tensor(TABLES[name], device=device)

"""Weights as they are stored: the seam between what reads them and what multiplies by them.

A `Matrix` goes from its file into its product as it is, never by way of floats. Its `MatrixFormat` knows how
to multiply by it: `float_format` is that of plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Groups:
    """Which rows are for which expert: those of each stand together, in the order of experts."""

    def __init__(self, experts: Tensor, num_experts: int) -> None:
        self.experts = experts  # (rows,), ascending
        self._num_experts = num_experts

    @cached_property
    def ends(self) -> Tensor:
        """The end of each expert's rows, (experts,) int32."""
        numbers = torch.arange(self._num_experts, device=self.experts.device)
        return torch.searchsorted(self.experts, numbers, right=True, out_int32=True)

    @cached_property
    def sizes(self) -> list[int]:
        """How many rows each expert has. The host waits for the device."""
        sizes: list[int] = torch.bincount(self.experts, minlength=self._num_experts).tolist()
        return sizes


Product = Callable[[Tensor], Tensor]  # (tokens, in) to (tokens, out)
GroupedProduct = Callable[[Tensor, Groups], Tensor]  # (rows, in) to (rows, out)


class MatrixFormat(Protocol):
    """A way to store weights, and to multiply by them."""

    def product(self, matrix: Matrix) -> Product:
        """Return the product with one matrix."""

    def grouped_product(self, matrix: Matrix) -> GroupedProduct | None:
        """Return the product with all experts' matrices in one operation, each row with its expert's.

        None where the device has no such operation, or one that waits to be told how many rows are whose.
        """


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight with its bias, or those of all experts of a layer.

    Rows are outputs: the first dimension of every block and of the bias, behind the experts' if it has one.
    """

    format: MatrixFormat
    blocks: tuple[Tensor, ...]
    bias: Tensor | None
    in_features: int

    def __getitem__(self, index: int | Tensor) -> Matrix:
        """Return an expert's matrix, or some rows of one matrix."""
        bias = None if self.bias is None else self.bias[index]
        return replace(self, blocks=tuple(block[index] for block in self.blocks), bias=bias)


def stack(matrices: tuple[Matrix, ...]) -> Matrix:
    """Return one matrix with the rows of several that are stored alike."""
    if len(matrices) == 1:
        return matrices[0]
    blocks = tuple(map(torch.cat, zip(*(matrix.blocks for matrix in matrices), strict=True)))
    return replace(matrices[0], blocks=blocks, bias=_stacked_bias(matrices))


def _stacked_bias(matrices: tuple[Matrix, ...]) -> Tensor | None:
    """Return all biases in a row, zeros for the matrices that have none beside others that do."""
    found = next((matrix.bias for matrix in matrices if matrix.bias is not None), None)
    if found is None:
        return None
    biases = (
        found.new_zeros(len(matrix.blocks[0])) if matrix.bias is None else matrix.bias for matrix in matrices
    )
    return torch.cat(list(biases))


def split_heads(matrix: Matrix, heads: int, sizes: Sequence[int]) -> list[Matrix]:
    """Return the parts of a matrix whose rows come head by head, `sizes` of each part."""
    rows = torch.arange(heads * sum(sizes), device=matrix.blocks[0].device).view(heads, -1)
    return [matrix[part.flatten()] for part in torch.split(rows, list(sizes), 1)]

"""Weights as they are stored: the seam between what reads them and what multiplies by them.

A `Matrix` goes from its file into its product as it is, never by way of floats. Its `MatrixFormat` knows what
its blocks mean and how to multiply by them: `neuron.models.formats` has a module for each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from neuron.models import huge_pages


class Groups:
    """Which rows are for which expert: those of each stand together, in the order of experts."""

    def __init__(self, experts: Tensor, num_experts: int, ends: Tensor | None = None) -> None:
        self.experts = experts  # (rows,), ascending
        self._num_experts = num_experts
        if ends is not None:
            self.ends = ends

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
    """A way to store weights, and to multiply by them.

    Products know blocks and bias alone: the matrix sees to its `factor` and `input_order`.
    """

    @property
    def name(self) -> str:
        """As GGUF names it in lower case, where it has the format."""

    def dequantize(self, blocks: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Return the numbers that blocks stand for, (…, out, in), computed in float32."""

    def unit(self, in_features: int) -> int:
        """Return how many inputs of a row stand together: a row is cut between them only."""

    def columns(self, blocks: Sequence[Tensor], inputs: slice) -> tuple[MatrixFormat, tuple[Tensor, ...]]:
        """Return the blocks of some inputs, whole units of them, and their format."""

    def product(self, matrix: Matrix) -> Product:
        """Return the product with one matrix, of the activations' dtype."""

    def grouped_product(self, matrix: Matrix) -> GroupedProduct | None:
        """Return the product with all experts' matrices in one operation, each row with its expert's.

        None where the device has no such operation, or one that waits to be told how many rows are whose.
        """


@dataclass(frozen=True, slots=True)
class ModuleOutputs:
    """The module of a model whose outputs a matrix makes."""

    module: str  # its name in the model
    outputs: int  # of the module
    rows: Tensor | None = None  # which of them, one for each row of the matrix; None: all, in their order

    @property
    def count(self) -> int:
        return self.outputs if self.rows is None else len(self.rows)

    def __getitem__(self, index: Tensor) -> ModuleOutputs:
        return replace(self, rows=index if self.rows is None else self.rows[index])


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight with its bias, or those of all experts of a layer.

    Rows are outputs: the last dimension but one of every block, and the last of the bias. The experts'
    dimension comes first.
    """

    format: MatrixFormat
    blocks: tuple[Tensor, ...]
    bias: Tensor | None
    in_features: int
    factor: Tensor | None = None  # (…, out, 1), float32, by which results are to be multiplied
    input_order: Tensor | None = None  # (…, 1, in): the input that each column is for, unless its own
    origin: ModuleOutputs | None = None  # of a matrix that adapters may change

    def __getitem__(self, index: int | Tensor) -> Matrix:
        """Return an expert's matrix, or some rows of one matrix."""
        return replace(
            self,
            blocks=tuple(block[index] for block in self.blocks),
            bias=None if self.bias is None else self.bias[index],
            factor=None if self.factor is None else self.factor[index],
            input_order=self.input_order if self.ndim == 2 else _item(self.input_order, index),
            origin=self.origin[index] if self.origin and isinstance(index, Tensor) else None,
        )

    def columns(self, start: int, stop: int) -> Matrix:
        """Return the matrix of some inputs alone. Raises ValueError where it cannot be cut there."""
        if self.input_order is not None:
            raise ValueError("its inputs are stored in an order of their own")
        unit = self.format.unit(self.in_features)
        if start % unit or (stop % unit and stop != self.in_features):
            raise ValueError(f"{unit} inputs stand together as {self.format.name}")
        form, blocks = self.format.columns(self.blocks, slice(start, stop))
        return replace(self, format=form, blocks=blocks, in_features=stop - start)

    @property
    def ndim(self) -> int:
        return self.blocks[0].ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's, (…, out, in)."""
        return (*self.blocks[0].shape[:-1], self.in_features)

    @property
    def num_outputs(self) -> int:
        return self.blocks[0].shape[-2]

    @property
    def bits_per_weight(self) -> float:
        """What the weight takes in memory, all scales included."""
        weights = self.num_outputs * self.in_features * (len(self.blocks[0]) if self.ndim == 3 else 1)
        return 8 * self.num_bytes / weights

    @property
    def num_bytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)

    def product(self) -> Product:
        """Return the product with one matrix: x, of `activation_dtype`, to the same dtype."""
        factor, order = self.factor, self.input_order
        bias = self.bias if factor is None else None
        multiply = self.format.product(replace(self, bias=bias, factor=None, input_order=None))
        if order is not None:
            multiply = _of_ordered(order.flatten(), multiply)
        if factor is None:
            return multiply
        return _scaled(multiply, factor.flatten(), self.bias)

    def grouped_product(self) -> GroupedProduct | None:
        """Return the product with all experts' matrices in one operation, if the format has one."""
        if self.input_order is not None:
            return None
        if self.factor is None:
            return self.format.grouped_product(self)
        multiply = self.format.grouped_product(replace(self, bias=None, factor=None))
        return multiply and partial(_multiply_scaled, multiply, self.factor[..., 0], self.bias)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the weight as plain numbers, (…, out, in)."""
        if self.factor is None and self.input_order is None:
            return self.format.dequantize(self.blocks, dtype)
        weight = self.format.dequantize(self.blocks, torch.float32)
        if self.factor is not None:
            weight = weight * self.factor
        if self.input_order is not None:
            weight = weight.gather(-1, self.input_order.argsort(-1).expand_as(weight))
        return weight.to(dtype)


def _of_ordered(order: Tensor, multiply: Product) -> Product:
    return lambda x: multiply(x.index_select(-1, order))


def _scaled(multiply: Product, factor: Tensor, bias: Tensor | None) -> Product:
    def scaled(x: Tensor) -> Tensor:
        out = multiply(x).mul_(factor)
        return out if bias is None else out.add_(bias)

    return scaled


def _multiply_scaled(
    multiply: GroupedProduct, factor: Tensor, bias: Tensor | None, x: Tensor, groups: Groups
) -> Tensor:
    out = multiply(x, groups).mul_(factor[groups.experts])
    return out if bias is None else out.add_(bias[groups.experts])


def _item(tensor: Tensor | None, index: int | Tensor) -> Tensor | None:
    return None if tensor is None else tensor[index]


def are_alike(matrices: Sequence[Matrix], dim: int = 0) -> bool:
    """Return whether matrices are stored alike, so that `stack` can join them along a dimension of blocks."""
    first, *others = matrices
    on_rows = dim == first.ndim - 2
    return all(
        _kind(first) == _kind(other) and _are_ordered_alike(first, other, on_rows=on_rows) for other in others
    )


def _kind(matrix: Matrix) -> object:
    blocks = [(block.dtype, block.device, block.ndim) for block in matrix.blocks]
    return matrix.format, matrix.in_features, blocks


def _are_ordered_alike(matrix: Matrix, other: Matrix, *, on_rows: bool) -> bool:
    """Return whether inputs have an order in both matrices or in none; all rows of a matrix have the same."""
    order, another = matrix.input_order, other.input_order
    if order is None or another is None:
        return order is another
    return torch.equal(order, another) if on_rows else True


def stack(matrices: Sequence[Matrix], dim: int = 0) -> Matrix:
    """Return one matrix of several that are stored alike, joined along a dimension of their blocks."""
    first = matrices[0]
    if len(matrices) == 1:
        return first
    order = first.input_order
    if order is not None and dim < first.ndim - 2:
        order = torch.cat([matrix.input_order for matrix in matrices if matrix.input_order is not None], dim)
    return replace(
        first,
        blocks=tuple(_joined(parts, dim) for parts in zip(*(m.blocks for m in matrices), strict=True)),
        bias=_stacked([(m.shape[:-1], m.bias) for m in matrices], dim, empty=0.0),
        factor=_stacked([((*m.shape[:-1], 1), m.factor) for m in matrices], dim, empty=1.0),
        input_order=order,
    )


def _joined(parts: tuple[Tensor, ...], dim: int) -> Tensor:
    first = parts[0]
    if first.device.type != "cpu":
        return torch.cat(parts, dim)
    shape = list(first.shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return torch.cat(parts, dim, out=huge_pages.empty(shape, first.dtype))


def _stacked(
    parts: Sequence[tuple[tuple[int, ...], Tensor | None]], dim: int, *, empty: float
) -> Tensor | None:
    """Return all parts in a row, those of a shape `empty` that are None beside others that are not."""
    found = next((part for _, part in parts if part is not None), None)
    if found is None:
        return None
    return torch.cat([found.new_full(shape, empty) if part is None else part for shape, part in parts], dim)


def split_heads(matrix: Matrix, heads: int, sizes: Sequence[int]) -> list[Matrix]:
    """Return the parts of a matrix whose rows come head by head, `sizes` of each part."""
    rows = torch.arange(heads * sum(sizes), device=matrix.blocks[0].device).view(heads, -1)
    return [matrix[part.flatten()] for part in torch.split(rows, list(sizes), 1)]

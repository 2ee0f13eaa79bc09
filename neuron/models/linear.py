"""Linear layers, made of the weights of transformers' modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuron.models.formats.floats import FLOATS
from neuron.models.matrix import GroupedProduct, Groups, Matrix, Product, are_alike, stack
from neuron.models.stored_weight import StoredWeight, dense

# A product costs some microseconds more than its bytes do; a copy of so few bytes costs a load as little.
_COPIED_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """Maps (tokens, `in_features`) to (tokens, out), both of `activation_dtype`."""

    multiply: Product
    in_features: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.multiply(x)


@dataclass(frozen=True, slots=True)
class GroupedLinear:
    """Maps rows sorted by expert, (rows, in), to (rows, out), each by its expert's matrix."""

    multiply: GroupedProduct
    num_experts: int
    is_capturable: bool  # as many rows run the same operations, whosever they are

    def __call__(self, x: Tensor, groups: Groups) -> Tensor:
        return self.multiply(x, groups)


def take_matrix(module: Any) -> Matrix:
    """Return the weight of a linear module of torch, which gives it up, so that none is held twice."""
    weight, bias = module.weight, module.bias
    module.weight = module.bias = None
    return _matrix(weight, bias)


def pack_linear(modules: Sequence[Any]) -> PackedLinear:
    """Return one linear layer in place of modules that have the same input; they give up their weights."""
    return pack_matrices([take_matrix(module) for module in modules])


def pack_matrices(matrices: Sequence[Matrix]) -> PackedLinear:
    """Return one linear layer with the rows of all matrices, one product for neighbours stored alike.

    Large ones stay where they are, which may be a mapped file, each with a product of its own.
    """
    runs: list[list[Matrix]] = []
    is_small = sum(matrix.num_bytes for matrix in matrices) <= _COPIED_BYTES
    joins = is_small or matrices[0].blocks[0].device.type != "cpu"
    for matrix in matrices:
        if runs and joins and are_alike([runs[-1][0], matrix]):
            runs[-1].append(matrix)
        else:
            runs.append([matrix])
    products = [stack(run).product() for run in runs]
    multiply = products[0] if len(products) == 1 else partial(_side_by_side, products)
    return PackedLinear(multiply, matrices[0].in_features)


def take_experts_matrix(module: Any, name: str) -> Matrix:
    """Return a weight of transformers' module of experts, which gives it up: (experts, out, in)."""
    weight, bias = getattr(module, name), getattr(module, f"{name}_bias", None)
    setattr(module, name, None)
    return _matrix(weight.transpose(1, 2) if module.is_transposed else weight, bias)


def _matrix(weight: Tensor, bias: Tensor | None) -> Matrix:
    if isinstance(weight, StoredWeight) and not weight.is_transposed:
        return replace(weight.matrix, bias=bias)
    weight = dense(weight)
    return Matrix(FLOATS, (weight,), bias, weight.shape[-1])


def pack_experts(matrix: Matrix) -> GroupedLinear:
    """Return the linear layers of all experts: multiplied at once where the device can, else one by one."""
    num_experts = len(matrix.blocks[0])
    if grouped := matrix.grouped_product():
        return GroupedLinear(grouped, num_experts, is_capturable=True)
    products = [matrix[index].product() for index in range(num_experts)]
    return GroupedLinear(partial(_one_by_one, products), num_experts, is_capturable=False)


def _side_by_side(products: Sequence[Product], x: Tensor) -> Tensor:
    return torch.cat([product(x) for product in products], -1)


def _one_by_one(products: Sequence[Product], x: Tensor, groups: Groups) -> Tensor:
    parts = zip(products, torch.split(x, groups.sizes), groups.sizes, strict=True)
    return torch.cat([product(rows) for product, rows, size in parts if size])

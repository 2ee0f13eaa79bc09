"""Linear layers, made of the weights of transformers' modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuron.models.adapters.adapted_linear import AdaptedLinear
from neuron.models.formats.cpu_product import CpuProduct, multiply_side_by_side
from neuron.models.formats.floats import FLOATS
from neuron.models.matrix import Matrix, ModuleOutputs, Product, are_alike, stack
from neuron.models.stored_weight import StoredWeight, dense

NAME_IN_MODEL = "name_in_model"  # of a module that may have adapters, which it is set on

# A product costs some microseconds more than its bytes do; a copy of so few bytes costs a load as little.
_COPIED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """Maps (tokens, `in_features`) to (tokens, out), both of `activation_dtype`."""

    multiply: Product
    in_features: int
    adapted: AdaptedLinear

    def __call__(self, x: Tensor) -> Tensor:
        return self.adapted.add_to(self.multiply(x), x)


def take_matrix(module: Any) -> Matrix:
    """Return the weight of a linear module of torch, which gives it up, so that none is held twice."""
    weight, bias = module.weight, module.bias
    module.weight = module.bias = None
    matrix = matrix_of(weight, bias)
    name = getattr(module, NAME_IN_MODEL, None)
    return replace(matrix, origin=ModuleOutputs(name, matrix.num_outputs)) if name else matrix


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
    multiply = _joined([stack(run).product() for run in runs])
    origins = [matrix.origin for matrix in matrices if matrix.origin]
    adapted = AdaptedLinear(origins if len(origins) == len(matrices) else (), matrices[0].in_features)
    return PackedLinear(multiply, matrices[0].in_features, adapted)


def _joined(products: Sequence[Product]) -> Product:
    """Return the product that gives the results of all side by side."""
    on_cpu = [product for product in products if isinstance(product, CpuProduct)]
    if len(products) == 1:
        return products[0]
    if len(on_cpu) == len(products):
        return partial(multiply_side_by_side, on_cpu)
    return partial(_side_by_side, products)


def take_experts_matrix(module: Any, name: str) -> Matrix:
    """Return a weight of transformers' module of experts, which gives it up: (experts, out, in)."""
    weight, bias = getattr(module, name), getattr(module, f"{name}_bias", None)
    setattr(module, name, None)
    return matrix_of(weight.transpose(1, 2) if module.is_transposed else weight, bias)


def matrix_of(weight: Tensor, bias: Tensor | None) -> Matrix:
    """Return a weight as it is stored, (…, out, in), with its bias."""
    if isinstance(weight, StoredWeight) and not weight.is_transposed:
        return replace(weight.matrix, bias=bias)
    weight = dense(weight)
    return Matrix(FLOATS, (weight,), bias, weight.shape[-1])


def _side_by_side(products: Sequence[Product], x: Tensor) -> Tensor:
    return torch.cat([product(x) for product in products], -1)

"""Linear layers of all experts at once, or of all adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from neuron.models.matrix import GroupedProduct, Groups, Matrix, Product


@dataclass(frozen=True, slots=True)
class GroupedLinear:
    """Maps rows sorted by expert, (rows, in), to (rows, out), each by its expert's matrix."""

    multiply: GroupedProduct
    num_experts: int
    is_capturable: bool  # as many rows run the same operations, whosever they are

    def __call__(self, x: Tensor, groups: Groups) -> Tensor:
        return self.multiply(x, groups)


def pack_experts(matrix: Matrix) -> GroupedLinear:
    """Return the linear layers of all experts: multiplied at once where the device can, else one by one."""
    num_experts = len(matrix.blocks[0])
    if grouped := matrix.grouped_product():
        return GroupedLinear(grouped, num_experts, is_capturable=True)
    products = [matrix[index].product() for index in range(num_experts)]
    return GroupedLinear(partial(_one_by_one, products), num_experts, is_capturable=False)


def _one_by_one(products: Sequence[Product], x: Tensor, groups: Groups) -> Tensor:
    parts = zip(products, torch.split(x, groups.sizes), groups.sizes, strict=True)
    return torch.cat([product(rows) for product, rows, size in parts if size])

"""Products with stored weights on CUDA.

What reads them as they are stored is the Triton kernel of `launch`, where Triton is installed, which torch
for CUDA brings along. torch's own operations for some formats are faster on some devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from neuron.models.cuda.candidate import Candidate
from neuron.models.cuda.ranking import ROWS, rank, seconds_on_cuda
from neuron.models.cuda.torch_products import GROUPED_PRODUCTS, PRODUCTS
from neuron.models.formats.dequantized import dequantized_product
from neuron.models.matrix import GroupedProduct, Matrix, Product

Table = tuple[float, ...]  # the values of a format's codes, where nothing computes them

_TRIAL_BYTES = 32 << 20  # of the weights that candidates are tried on
_TRIAL_EXPERTS = 8
_ALIGNED = 64  # outputs
_FEW = 64  # rows up to which the ranking for 16 holds


def cuda_product(matrix: Matrix, table: Table | None = None) -> Product | None:
    """Return the product with a stored matrix; None where it is not on CUDA."""
    if matrix.blocks[0].device.type != "cuda":
        return None
    ranked = _ranked(matrix, table)
    chosen = {rows: _first(candidates, matrix) for rows, candidates in ranked.items()}
    products = {each.name: each.build(matrix) for each in chosen.values()}
    one, few, many = (products[chosen[rows].name] for rows in ROWS)
    return partial(_by_rows, one, few, many)


def cuda_grouped_product(matrix: Matrix, table: Table | None = None) -> GroupedProduct | None:
    """Return the product with all experts' matrices; None where one operation does not do it."""
    if matrix.blocks[0].device.type != "cuda":
        return None
    suited = [each for each in _ranked(matrix, table)[ROWS[1]] if each.suits(matrix)]
    product: GroupedProduct | None = suited[0].build(matrix) if suited else None
    return product


def _by_rows(one: Product, few: Product, many: Product, x: Tensor) -> Tensor:
    return (one if len(x) == 1 else few if len(x) <= _FEW else many)(x)


def _first(candidates: Sequence[Candidate], matrix: Matrix) -> Candidate:
    return next((each for each in candidates if each.suits(matrix)), _DEQUANTIZED)


_DEQUANTIZED = Candidate("dequantized", lambda _: True, dequantized_product)


@cache
def find_kernel() -> Any:
    """Return the module `launch`; None where Triton is not installed."""
    try:
        from neuron.models.cuda import launch  # noqa: PLC0415 - Triton is not everywhere
    except ImportError:
        return None
    return launch


def kernel_candidate(table: Table | None, *, is_grouped: bool = False) -> Candidate | None:
    """Return the Triton kernel as a candidate, if there is Triton."""
    launch = find_kernel()
    if launch is None:
        return None

    def build(matrix: Matrix) -> Any:
        values = None if table is None else torch.tensor(table, device=matrix.blocks[0].device).float()
        product = launch.KernelProduct(matrix, values)
        return product.grouped if is_grouped else product

    return Candidate("triton", launch.suits, build)


_rankings: dict[object, dict[int, list[Candidate]]] = {}


def _ranked(matrix: Matrix, table: Table | None) -> dict[int, list[Candidate]]:
    """Return the candidates for a format on a device, tried when the first matrix of the kind comes."""
    device, is_grouped = matrix.blocks[0].device, matrix.ndim == 3
    has_row_scales = [block.shape[-1] == 1 for block in matrix.blocks]
    key = matrix.format.name, device, is_grouped, *has_row_scales
    if key not in _rankings:
        kernel = kernel_candidate(table, is_grouped=is_grouped)
        own = GROUPED_PRODUCTS if is_grouped else (*PRODUCTS, _DEQUANTIZED)
        candidates = [*([kernel] if kernel else []), *own]
        _rankings[key] = rank(candidates, trial_like(matrix), seconds_on_cuda)
    return _rankings[key]


def trial_like(matrix: Matrix, num_bytes: int = _TRIAL_BYTES) -> Matrix:
    """Return weights of so many bytes or fewer, made of some of a matrix's rows again and again."""
    if matrix.ndim == 3:
        return replace(matrix, blocks=tuple(block[:_TRIAL_EXPERTS] for block in matrix.blocks), bias=None)
    row_bytes = sum(block[0].nbytes for block in matrix.blocks)
    outputs = max(1, num_bytes // row_bytes // _ALIGNED) * _ALIGNED
    rows = torch.arange(outputs, device=matrix.blocks[0].device) % matrix.num_outputs
    return replace(matrix, blocks=tuple(block[rows] for block in matrix.blocks), bias=None)

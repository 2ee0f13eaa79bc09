"""Products by way of plain numbers: what a format has where nothing multiplies by its blocks.

Every other product of a format is held to this one in the tests.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn.functional import linear

from neuron.models.matrix import Matrix, Product

_PIECE = 1 << 20  # weights that are plain numbers at a time


def dequantized_product(matrix: Matrix) -> Product:
    """Return the product with one matrix, a few of whose rows are plain numbers at a time."""
    return partial(_multiply, matrix)


def _multiply(matrix: Matrix, x: Tensor) -> Tensor:
    out = x.new_empty(len(x), matrix.num_outputs)
    step = max(1, _PIECE // matrix.in_features)
    for start in range(0, matrix.num_outputs, step):
        rows = slice(start, start + step)
        weight = matrix.format.dequantize([block[rows] for block in matrix.blocks], x.dtype)
        bias = None if matrix.bias is None else matrix.bias[rows].to(x.dtype)
        out[:, rows] = linear(x, weight, bias)
    return out

"""Products of torch's own for some formats, by way of names that it does not document.

    _scaled_mm, _scaled_grouped_mm      8-bit floats with a scale for each output; activations become such too
    _weight_int4pack_mm                 codes of four bits, packed for tensor cores

All compute in bfloat16. Whether a device has them is tried, see `neuron.models.cuda.ranking`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuron.models import private
from neuron.models.cuda.candidate import Candidate
from neuron.models.matrix import GroupedProduct, Groups, Matrix, Product

_FLOAT8 = torch.float8_e4m3fn
_INT4_GROUPS = {32, 64, 128, 256}
_INT4_COLUMNS = 128  # of which rows are multiples
_INT4_OUTPUTS = 8


def _suits_scaled(matrix: Matrix) -> bool:
    has_row_scales = matrix.format.name == "fp8" and matrix.blocks[1].shape[-1] == 1
    return has_row_scales and matrix.in_features % 16 == 0 and matrix.num_outputs % 16 == 0


def _scaled_product(matrix: Matrix) -> Product:
    codes, scales = matrix.blocks
    weight, weight_scale, bias = codes.view(_FLOAT8).t(), scales.t().contiguous(), matrix.bias

    def multiply(x: Tensor) -> Tensor:
        rows, scale = _to_float8(x)
        out = private.scaled_mm(rows, weight, scale, weight_scale).to(x.dtype)
        return out if bias is None else out.add_(bias)

    return multiply


def _scaled_grouped_product(matrix: Matrix) -> GroupedProduct:
    codes, scales = matrix.blocks
    weight, weight_scale, bias = codes.view(_FLOAT8).transpose(1, 2), scales[..., 0].contiguous(), matrix.bias

    def multiply(x: Tensor, groups: Groups) -> Tensor:
        rows, scale = _to_float8(x)
        out = private.scaled_grouped_mm(rows, weight, scale[:, 0], weight_scale, groups.ends).to(x.dtype)
        return out if bias is None else out.add_(bias[groups.experts])

    return multiply


def _to_float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as 8-bit floats, and a scale for each, (rows, 1)."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / torch.finfo(_FLOAT8).max
    return (x / scale).to(_FLOAT8), scale


def _suits_int4(matrix: Matrix) -> bool:
    if matrix.format.name != "int4":
        return False
    group = matrix.in_features // matrix.blocks[1].shape[-1]
    is_aligned = matrix.in_features % _INT4_COLUMNS == 0 and matrix.num_outputs % _INT4_OUTPUTS == 0
    return group in _INT4_GROUPS and is_aligned


def _int4_product(matrix: Matrix) -> Product:
    codes, scales, *zeros = matrix.blocks
    packed = private.pack_int4((codes << 4) | (codes >> 4))  # torch has the even element in the upper bits
    middle = torch.full_like(scales, 8) if not zeros else zeros[0].float()
    # A code's value is (code - 8) * scale + zero there.
    pairs = torch.stack([scales, (8 - middle) * scales], -1).transpose(0, 1).bfloat16().contiguous()
    group, bias = matrix.in_features // scales.shape[-1], matrix.bias

    def multiply(x: Tensor) -> Tensor:
        out = private.int4_mm(x.bfloat16(), packed, group, pairs).to(x.dtype)
        return out if bias is None else out.add_(bias)

    return multiply


PRODUCTS = (
    Candidate("_scaled_mm", _suits_scaled, _scaled_product),
    Candidate("_weight_int4pack_mm", _suits_int4, _int4_product, is_packed=True),
)
GROUPED_PRODUCTS = (Candidate("_scaled_grouped_mm", _suits_scaled, _scaled_grouped_product),)

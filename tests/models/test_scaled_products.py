"""Products of scaled codes, through their format, beside those of plain numbers."""

from __future__ import annotations

import pytest
import torch

from neuron.models.formats.dequantized import dequantized_product
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Groups, Matrix

EXPERTS, OUTS, INS = 3, 20, 96


@pytest.mark.parametrize("group_size", [1, 32, 48, INS])
@pytest.mark.parametrize("name", ["int4", "int8", "fp8", "nf4", "fp4"])
def test_products_are_those_of_plain_numbers(name: str, group_size: int):
    form = ScaledCodes(name, group_size)
    codes = torch.randint(96, (EXPERTS, OUTS, INS * form.bits // 8), dtype=torch.uint8)
    scales, bias = torch.randn(EXPERTS, OUTS, INS // group_size), torch.randn(EXPERTS, OUTS)
    matrices = Matrix(form, (codes, scales), bias, INS)
    x, groups = torch.randn(9, INS), Groups(torch.tensor([0] * 4 + [2] * 5), EXPERTS)
    for expert, part in ((0, slice(4)), (2, slice(4, 9))):
        wanted = dequantized_product(matrices[expert])(x[part])
        torch.testing.assert_close(form.product(matrices[expert])(x[part]), wanted, rtol=1e-4, atol=1e-4)
        if grouped := form.grouped_product(matrices):
            torch.testing.assert_close(grouped(x, groups)[part], wanted, rtol=1e-4, atol=1e-4)
